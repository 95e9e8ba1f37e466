# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kokomo)

install(TARGETS kokomo EXPORT kokomo-targets FILE_SET HEADERS)
install(EXPORT kokomo-targets NAMESPACE kokomo:: DESTINATION ${package_dir})

# An export of its own: who does not ask for the component io needs no nlohmann/json.
if(TARGET kokomo_io)
  set_target_properties(kokomo_io PROPERTIES EXPORT_NAME io)
  install(TARGETS kokomo_io EXPORT kokomo-io-targets)
  install(EXPORT kokomo-io-targets NAMESPACE kokomo:: DESTINATION ${package_dir})
endif()

configure_package_config_file(cmake/kokomo-config.cmake.in kokomo-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(kokomo-config-version.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/kokomo-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/kokomo-config-version.cmake
  cmake/kokomo-language.cmake DESTINATION ${package_dir})
