# Install and export, so that another project can find_package(loza).
include(CMakePackageConfigHelpers)
get_property(rooms GLOBAL PROPERTY LOZA_ROOMS)
set(targets loza_compiler ${rooms})
if(LOZA_TORCH)
  list(APPEND targets loza_torch)
endif()
if(TARGET loza)
  install(TARGETS loza RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(TARGETS ${targets} EXPORT lozaTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY loza/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/loza
        FILES_MATCHING PATTERN "*.h" PATTERN "*.cuh")
install(EXPORT lozaTargets NAMESPACE loza:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/loza)
configure_package_config_file(cmake/lozaConfig.cmake.in lozaConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/loza)
write_basic_package_version_file(lozaConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/lozaConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/lozaConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/loza)
