# Finds libtorch and defines the target `torch` and TORCH_INCLUDE_DIRS.
#
# LOZA_TORCH_PYTHON names a python whose torch is taken as it lies in its wheel. That is the way to
# a CUDA libtorch: its own TorchConfig.cmake wants a whole CUDA toolkit, and calling its operations
# needs none. Otherwise TorchConfig.cmake is found: under CMAKE_PREFIX_PATH, in the project's
# environment, or in the user's python.
set(LOZA_TORCH_PYTHON "" CACHE FILEPATH "A python whose torch, with or without CUDA, is linked")
set(torch_needed 2.6)

function(loza_torch_of_wheel python)
  execute_process(
    COMMAND ${python} -c "import os, torch; print(os.path.dirname(torch.__file__), torch.__version__, sep=';')"
    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${python} has no torch: run scripts/setup --cuda")
  endif()
  list(GET found 0 folder)
  list(GET found 1 version)
  file(GLOB cuda_libraries ${folder}/lib/libtorch_cuda.so ${folder}/lib/libc10_cuda.so)
  add_library(torch INTERFACE IMPORTED GLOBAL)
  # Nothing refers to libtorch_cuda by name: its operations register themselves when it is loaded.
  # What it needs in turn lies beside it only where programs run.
  list(JOIN cuda_libraries "," kept)
  if(kept)
    set(kept "-Wl,--no-as-needed,${kept},--as-needed,--unresolved-symbols=ignore-in-shared-libs")
  endif()
  # libtorch.so of some wheels carries a part of std::filesystem that does not work: the C++
  # library's own comes first.
  target_link_libraries(torch INTERFACE stdc++ ${kept}
    ${folder}/lib/libtorch.so ${folder}/lib/libtorch_cpu.so ${folder}/lib/libc10.so)
  target_link_options(torch INTERFACE -Wl,-rpath,${folder}/lib)
  if(kept)
    set(LOZA_TORCH_CUDA ON PARENT_SCOPE)
  endif()
  set(TORCH_INSTALL_PREFIX ${folder} PARENT_SCOPE)
  set(Torch_VERSION ${version} PARENT_SCOPE)
  set(TORCH_INCLUDE_DIRS ${folder}/include ${folder}/include/torch/csrc/api/include PARENT_SCOPE)
  message(STATUS "libtorch ${version} of ${python}")
endfunction()

if(LOZA_TORCH_PYTHON)
  loza_torch_of_wheel(${LOZA_TORCH_PYTHON})
else()
  set(CMAKE_MESSAGE_LOG_LEVEL ERROR)  # it warns of a profiler that is not needed
  find_package(Torch ${torch_needed} QUIET)
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
    find_package(Torch ${torch_needed} REQUIRED)
  endif()
  unset(CMAKE_MESSAGE_LOG_LEVEL)
endif()
if(Torch_VERSION AND Torch_VERSION VERSION_LESS ${torch_needed})
  message(FATAL_ERROR
    "libtorch ${Torch_VERSION} found, ${torch_needed} or newer is needed: run scripts/setup")
endif()
