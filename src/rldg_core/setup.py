from setuptools import find_packages, setup

package_name = "rldg_core"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={package_name: ["py.typed", "fastdds_localhost.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    maintainer="RLDG for ROS 2 maintainers",
    maintainer_email="rldg-maintainers@users.noreply.github.com",
    description="Frames, types, task configuration, image codec and seeding of RLDG for ROS 2.",
    license="Apache-2.0",
)
