from setuptools import find_packages, setup

package_name = "rldg_policy"

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
    description="The policy server, the compact generalist and its fine-tuning.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "policy = rldg_policy.nodes.policy:main",
        ],
        "rldg.generalists": [
            "compact = rldg_policy.compact.generalist:COMPACT",
            "octo = rldg_policy.octo.generalist:OCTO",
            "openvla = rldg_policy.openvla.generalist:OPENVLA",
        ],
        "rldg.policies": [
            "hold = rldg_policy.hold:HoldPolicy",
            "scripted = rldg_policy.scripted:ScriptedPolicy",
            "compact = rldg_policy.compact.policy:CompactPolicy",
            "octo = rldg_policy.octo.policy:OctoPolicy",
            "openvla = rldg_policy.openvla.policy:OpenVLAPolicy",
        ],
        "rldg.policy_checks": [
            "hold = rldg_policy.checkpoint.early:no_checkpoint",
            "scripted = rldg_policy.checkpoint.early:no_checkpoint",
            "compact = rldg_policy.checkpoint.early:check_generalist",
            "octo = rldg_policy.checkpoint.early:check_generalist",
            "openvla = rldg_policy.checkpoint.early:check_generalist",
        ],
    },
)
