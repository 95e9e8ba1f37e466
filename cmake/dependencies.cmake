# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# kokomo_dependency(): an existing target, else an installed package, else a pinned release. Each step says what it
# found or why it did not. FETCHCONTENT_SOURCE_DIR_<NAME> replaces the download by a folder, as CMake documents.
include(FetchContent)
include(${CMAKE_CURRENT_LIST_DIR}/pins.cmake)

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
      set(_kokomo_reason "no installation found")
      if(${_kokomo_source})
        set(_kokomo_reason "${_kokomo_source} is set")
      elseif(${package}_CONSIDERED_CONFIGS)
        set(_kokomo_reason "${${package}_CONSIDERED_CONFIGS} has version ${${package}_CONSIDERED_VERSIONS}")
      endif()
      if(NOT KOKOMO_FETCH_DEPENDENCIES)
        message(FATAL_ERROR
          "kokomo: ${package} ${version} is needed: ${_kokomo_reason}. Set ${package}_ROOT to where it is installed or "
          "${package}_DIR to the folder of ${package}Config.cmake, or turn KOKOMO_FETCH_DEPENDENCIES on.")
      endif()
      message(STATUS "kokomo: ${package} ${version}: ${_kokomo_reason}; fetching ${KOKOMO_${_kokomo_upper}_URL}")
      FetchContent_Declare(${package} URL ${KOKOMO_${_kokomo_upper}_URL} URL_HASH ${KOKOMO_${_kokomo_upper}_HASH}
        DOWNLOAD_EXTRACT_TIMESTAMP OFF SYSTEM)
      FetchContent_MakeAvailable(${package})
    endif()
  endif()
endmacro()

# A Kokkos that is fetched with no backend chosen would be Serial alone: take OpenMP where the compiler has it.
macro(kokomo_kokkos)
  if(NOT TARGET Kokkos::kokkos AND NOT DEFINED Kokkos_ENABLE_OPENMP)
    find_package(OpenMP QUIET COMPONENTS CXX)
    set(Kokkos_ENABLE_OPENMP ${OpenMP_CXX_FOUND} CACHE BOOL "Kokkos' OpenMP backend, where kokomo fetches Kokkos")
    set(Kokkos_ENABLE_SERIAL ON CACHE BOOL "Kokkos' Serial backend, where kokomo fetches Kokkos")
  endif()
  kokomo_dependency(Kokkos 4.7...<6 Kokkos::kokkos)
  message(STATUS "kokomo: Kokkos devices: ${Kokkos_DEVICES}")
endmacro()
