# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# kokomo_dependency(): an existing target, else an installed package, else a pinned release. Each step says what it
# found or why it did not. FETCHCONTENT_SOURCE_DIR_<NAME> replaces the download by a folder, as CMake documents.
include(FetchContent)
include(${CMAKE_CURRENT_LIST_DIR}/pins.cmake)

# A fetched Kokkos with no backend chosen would be Serial alone: take OpenMP where the compiler has it.
function(kokomo_before_kokkos)
  if(NOT DEFINED Kokkos_ENABLE_OPENMP)
    find_package(OpenMP QUIET COMPONENTS CXX)
    set(Kokkos_ENABLE_OPENMP ${OpenMP_CXX_FOUND} CACHE BOOL "Kokkos' OpenMP backend, where kokomo fetches Kokkos")
    set(Kokkos_ENABLE_SERIAL ON CACHE BOOL "Kokkos' Serial backend, where kokomo fetches Kokkos")
  endif()
endfunction()

function(kokomo_before_nlohmann_json)
  set(JSON_Install ${KOKOMO_INSTALL} CACHE INTERNAL "") # what kokomo::io exports
endfunction()

function(kokomo_before_catch2)
endfunction()

# A macro: find_package's variables (Kokkos_ENABLE_CUDA, ...) belong to the caller.
macro(kokomo_dependency package version target)
  string(TOUPPER ${package} _kokomo_upper)
  set(_kokomo_source FETCHCONTENT_SOURCE_DIR_${_kokomo_upper})
  if(TARGET ${target})
    message(STATUS "kokomo: ${package}: target ${target} exists already")
  else()
    if(NOT ${_kokomo_source})
      # GLOBAL: a parent project that links kokomo::kokomo must see the targets behind it.
      set(_kokomo_targets_global "${CMAKE_FIND_PACKAGE_TARGETS_GLOBAL}")
      set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL TRUE)
      find_package(${package} ${version} CONFIG QUIET)
      set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL "${_kokomo_targets_global}")
    endif()
    if(TARGET ${target})
      message(STATUS "kokomo: ${package} ${${package}_VERSION} found in ${${package}_DIR}")
    else()
      if(${_kokomo_source})
        message(STATUS "kokomo: ${package}: the sources in ${${_kokomo_source}}")
      else()
        set(_kokomo_reason "no installation found")
        if(${package}_CONSIDERED_CONFIGS)
          set(_kokomo_reason "${${package}_CONSIDERED_CONFIGS} has version ${${package}_CONSIDERED_VERSIONS}")
        endif()
        if(NOT KOKOMO_FETCH_DEPENDENCIES)
          message(FATAL_ERROR
            "kokomo: ${package} ${version} is needed: ${_kokomo_reason}. Set ${package}_ROOT to where it is installed or "
            "${package}_DIR to the folder of its CMake package, or turn KOKOMO_FETCH_DEPENDENCIES on.")
        endif()
        message(STATUS "kokomo: ${package} ${version}: ${_kokomo_reason}; fetching ${KOKOMO_${_kokomo_upper}_URL}")
      endif()
      cmake_language(CALL kokomo_before_${package})
      FetchContent_Declare(${package} SYSTEM URL ${KOKOMO_${_kokomo_upper}_URL} URL_HASH ${KOKOMO_${_kokomo_upper}_HASH}
        DOWNLOAD_EXTRACT_TIMESTAMP OFF)
      FetchContent_MakeAvailable(${package})
    endif()
  endif()
endmacro()

macro(kokomo_kokkos)
  kokomo_dependency(Kokkos 4.7...<6 Kokkos::kokkos)
  if(Kokkos_ENABLE_CUDA AND Kokkos_ENABLE_COMPILE_AS_CMAKE_LANGUAGE)
    set(Kokkos_COMPILE_LANGUAGE CUDA) # an installed Kokkos says so itself
  endif()
  set(_kokomo_backends)
  foreach(_kokomo_backend SERIAL OPENMP THREADS CUDA HIP SYCL)
    if(Kokkos_ENABLE_${_kokomo_backend})
      string(APPEND _kokomo_backends " ${_kokomo_backend}")
    endif()
  endforeach()
  message(STATUS "kokomo: Kokkos backends:${_kokomo_backends}")
endmacro()
