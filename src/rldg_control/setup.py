from setuptools import find_packages, setup

package_name = "rldg_control"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={package_name: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    maintainer="RLDG for ROS 2 maintainers",
    maintainer_email="rldg-maintainers@users.noreply.github.com",
    description="Observer, gate, teleoperation, gripper and episode manager.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "observer = rldg_control.nodes.observer:main",
            "gate = rldg_control.nodes.gate:main",
            "teleop = rldg_control.nodes.teleop:main",
            "gripper = rldg_control.nodes.gripper:main",
            "episode = rldg_control.nodes.episode:main",
        ],
    },
)
