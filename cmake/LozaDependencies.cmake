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
  # libtorch: CMAKE_PREFIX_PATH first, then the project's environment, then the user's python.
  set(CMAKE_MESSAGE_LOG_LEVEL ERROR)  # it warns of a profiler that is not needed
  find_package(Torch 2.6 QUIET)
  if(NOT Torch_FOUND)
    foreach(python ${PROJECT_SOURCE_DIR}/.venv/bin/python python3)
      execute_process(
        COMMAND ${python} -c "import torch; print(torch.utils.cmake_prefix_path)"
        OUTPUT_VARIABLE torch_prefix OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
        RESULT_VARIABLE status)
      if(status EQUAL 0)
        list(APPEND CMAKE_PREFIX_PATH ${torch_prefix})
        break()
      endif()
    endforeach()
    find_package(Torch 2.6 REQUIRED)
  endif()
  unset(CMAKE_MESSAGE_LOG_LEVEL)
  if(Torch_VERSION AND Torch_VERSION VERSION_LESS 2.6)
    message(FATAL_ERROR "libtorch ${Torch_VERSION} found, 2.6 or newer is needed: run scripts/setup")
  endif()
endif()

if(LOZA_TESTS)
  find_package(GTest REQUIRED)
endif()
