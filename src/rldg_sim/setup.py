from setuptools import find_packages, setup

package_name = "rldg_sim"

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
    description="The simulated cell (MuJoCo) and the scripted operator.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "cell = rldg_sim.nodes.cell:main",
            "operator = rldg_sim.nodes.operator:main",
        ],
        "rldg.scenes": [
            "connector = rldg_sim.scenes.connector:ConnectorScene",
            "fmb_insertion = rldg_sim.scenes.fmb_insertion:FmbInsertionScene",
            "pick_and_place = rldg_sim.scenes.pick_and_place:PickAndPlaceScene",
            "assembly = rldg_sim.scenes.assembly:AssemblyScene",
            "default = rldg_sim.scenes.connector:ConnectorScene",
        ],
    },
)
