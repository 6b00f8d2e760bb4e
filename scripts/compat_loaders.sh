#!/usr/bin/env bash
# The unmodified data loaders of Octo and OpenVLA on our datasets: compat_loaders.sh [octo|openvla]. Fetches what it needs
# (network; 1.5 GB, with torch 7 GB) into $RLDG_LOADERS, default /tmp/compat_loaders; clones that are there are used.
# RLDG_LOADERS_TORCH=1 also installs what `import prismatic` needs, and runs OpenVLA's RLDSDataset itself.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
root=${RLDG_LOADERS:-/tmp/compat_loaders}
loaders=${1:-octo openvla}

fail() { echo "compat-loaders: $1" >&2; exit 1; }

[[ -x .venv/bin/python ]] || fail "not set up yet: run 'make setup'"
python=${RLDG_LOADERS_PYTHON:-python3.11} # TensorFlow 2.15 has no wheels for a later one
command -v "$python" >/dev/null || fail "$python is needed: install it or set RLDG_LOADERS_PYTHON"
mkdir -p "$root"

while read -r name repository commit; do
  [[ -d $root/$name ]] || git clone -q "https://github.com/$repository" "$root/$name" || fail "cannot clone $repository"
  git -C "$root/$name" -c advice.detachedHead=false checkout -q "$commit" || fail "$repository has no commit $commit"
  [[ -z $(git -C "$root/$name" status --porcelain --untracked-files=no) ]] || fail "$root/$name is modified"
done <<'REPOSITORIES'
octo octo-models/octo 241fb3514b7c40957a86d869fecb7c7fc353f540
openvla openvla/openvla c8f03f48af692657d3060c19588038c7220e9af9
dlimp kvablack/dlimp ad72ce3a9b414db2185bc0b38461d4101a65477a
dlimp_openvla moojink/dlimp_openvla 040105d256bd28866cc6620621a3d5f7b6b91b46
REPOSITORIES

# The pins of Octo and OpenVLA where they name one; tensorflow-metadata 1.16 needs another protobuf than TensorFlow 2.15.
pins=(tensorflow-cpu==2.15.0 tensorflow-datasets==4.9.3 tensorflow-metadata==1.15.0 'protobuf<5' numpy==1.26.4
  tqdm==4.70.1 pillow==13.0.0 rich==15.0.0 huggingface-hub==0.23.4)
[[ -z ${RLDG_LOADERS_TORCH:-} ]] || pins+=(torch==2.2.0 torchvision==0.17.0 transformers==4.40.1 tokenizers==0.19.1
  timm==0.9.10 accelerate==0.30.1 einops==0.8.2 sentencepiece==0.1.99 jsonlines draccus==0.8.0 peft==0.11.1 json-numpy)
if [[ ! -f $root/venv/stamp || $(<"$root/venv/stamp") != "${pins[*]}" ]]; then
  "$python" -m venv --clear "$root/venv"
  "$root/venv/bin/python" -m pip install -q --progress-bar off "${pins[@]}" || fail "pip could not install the loaders' needs"
  "$root/venv/bin/python" -m pip install -q --progress-bar off --no-deps tensorflow-graphics==2021.12.3
  echo "${pins[*]}" >"$root/venv/stamp"
fi

rm -rf "$root/out"
source scripts/env.sh
python tests_compat/make_dataset.py "$root/out"
for dataset in two_cameras/1.0.0 resized/2.1.0; do
  python tests_compat/dump.py "$root/out/data/$dataset" "$root/out/dump/${dataset%/*}"
  for loader in $loaders; do
    env -u PYTHONPATH TF_CPP_MIN_LOG_LEVEL=3 "$root/venv/bin/python" tests_compat/loaders.py "$loader" "$root" \
      "$root/out/data/$dataset" "$root/out/dump/${dataset%/*}" 2>"$root/out/$loader.log" | grep '^{' \
      || fail "$loader on $dataset: $(grep -E '^[A-Za-z.]*(Error|Exception)' "$root/out/$loader.log" | tail -1) (see $root/out/$loader.log)"
  done
done
