# How every target is compiled.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
string(REPLACE "-O3" "-O2" CMAKE_CXX_FLAGS_RELEASE "${CMAKE_CXX_FLAGS_RELEASE}")  # loops ask for more
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(LOZA_CCACHE ccache)
if(LOZA_CCACHE)
  # What ccache needs to keep objects that use precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      ${LOZA_CCACHE})
  add_compile_options($<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>)
endif()

add_library(loza_compiler INTERFACE)
target_include_directories(loza_compiler INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(loza_compiler INTERFACE cxx_std_20)
target_compile_options(loza_compiler INTERFACE
  $<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wno-unknown-pragmas;-fno-math-errno>>)
if(LOZA_SANITIZE)
  target_compile_options(loza_compiler INTERFACE -fsanitize=${LOZA_SANITIZE} -fno-omit-frame-pointer -g)
  target_link_options(loza_compiler INTERFACE -fsanitize=${LOZA_SANITIZE})
endif()
if(LOZA_FUZZ)
  target_compile_options(loza_compiler INTERFACE -fsanitize=fuzzer-no-link)
endif()
