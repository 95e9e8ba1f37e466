# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# What is fetched where nothing is installed: releases with their SHA256.
set(KOKOMO_KOKKOS_URL https://github.com/kokkos/kokkos/releases/download/4.7.01/kokkos-4.7.01.tar.gz)
set(KOKOMO_KOKKOS_HASH SHA256=404cf33e76159e83b8b4ad5d86f6899d442b5da4624820ab457412116cdcd201)

set(KOKOMO_NLOHMANN_JSON_URL https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz)
set(KOKOMO_NLOHMANN_JSON_HASH SHA256=d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)

set(KOKOMO_CATCH2_URL https://github.com/catchorg/Catch2/archive/refs/tags/v3.7.1.tar.gz)
set(KOKOMO_CATCH2_HASH SHA256=c991b247a1a0d7bb9c39aa35faf0fe9e19764213f28ffba3109388e62ee0269c)
