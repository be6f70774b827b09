# The libraries that loza stands on. docs/design.md says why each was chosen.
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(Threads REQUIRED)
find_package(ICU REQUIRED COMPONENTS uc)

find_path(ONIG_INCLUDE_DIR oniguruma.h REQUIRED)
find_library(ONIG_LIBRARY onig REQUIRED)
if(NOT TARGET Oniguruma::Oniguruma)
  add_library(Oniguruma::Oniguruma UNKNOWN IMPORTED)
  set_target_properties(Oniguruma::Oniguruma PROPERTIES
    IMPORTED_LOCATION ${ONIG_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${ONIG_INCLUDE_DIR})
endif()

# Threads: OpenMP, the same runtime as libtorch's, so that both share one pool. The
# thread sanitizer does not understand libgomp's barriers; there std::thread serves.
if(LOZA_OPENMP)
  find_package(OpenMP REQUIRED COMPONENTS CXX)
endif()

if(LOZA_TORCH)
  find_package(CLI11 REQUIRED)
  include(LozaTorch)
endif()

if(LOZA_TESTS)
  find_package(GTest REQUIRED)
endif()
