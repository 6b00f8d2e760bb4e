from glob import glob

from setuptools import find_packages, setup

package_name = "rldg_bringup"
share = "share/" + package_name

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={package_name: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        (share, ["package.xml"]),
        # The launch folder stands at the top of the repository, where users look for it.
        (share + "/launch", glob("../../launch/*.launch.py")),
        (share + "/config", glob("config/*.*")),
        (share + "/config/tasks", glob("config/tasks/*.yaml")),
        (share + "/config/robots", glob("config/robots/*.yaml")),
        (share + "/config/accelerate", glob("config/accelerate/*.yaml")),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    maintainer="RLDG for ROS 2 maintainers",
    maintainer_email="rldg-maintainers@users.noreply.github.com",
    description="Stacks, launch files, task configuration, the rldg command and the demo.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "rldg = rldg_bringup.cli:main",
        ],
    },
)
