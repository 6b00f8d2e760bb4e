from setuptools import find_packages, setup

package_name = "rldg_rl"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={package_name: ["py.typed", "encoders/*.safetensors"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    maintainer="RLDG for ROS 2 maintainers",
    maintainer_email="rldg-maintainers@users.noreply.github.com",
    description="RLPD specialists: agent, replay, learner.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "learner = rldg_rl.nodes.learner:main",
            "reward = rldg_rl.nodes.reward:main",
        ],
        "rldg.policies": [
            "specialist = rldg_rl.specialist:SpecialistPolicy",
        ],
        "rldg.policy_checks": [
            "specialist = rldg_rl.specialist_files:check_before_start",
        ],
    },
)
