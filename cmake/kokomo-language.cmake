# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# kokomo_target_sources_language(target): compiles the target's C++ sources as the language that Kokkos was built for.
# It does nothing unless Kokkos was built with Kokkos_ENABLE_COMPILE_AS_CMAKE_LANGUAGE for CUDA; with nvcc_wrapper or
# kokkos_launch_compiler sources stay C++.
function(kokomo_target_sources_language target)
  if(NOT Kokkos_COMPILE_LANGUAGE STREQUAL "CUDA")
    return()
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR "kokomo: this Kokkos compiles as CUDA: call enable_language(CUDA) before ${target}")
  endif()
  get_target_property(sources ${target} SOURCES)
  list(FILTER sources INCLUDE REGEX "\\.cpp$")
  set_source_files_properties(${sources} TARGET_DIRECTORY ${target} PROPERTIES LANGUAGE CUDA)
  if(NOT CMAKE_CUDA_ARCHITECTURES AND Kokkos_CUDA_ARCHITECTURES)
    set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "${Kokkos_CUDA_ARCHITECTURES}")
  endif()
endfunction()
