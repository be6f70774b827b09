# loza_room(NAME SOURCES files... DEPENDS targets... [TORCH])
#
# One static library a room, loza_NAME, exported as loza::NAME. TORCH marks the parts of
# the house that see tensors; they share one precompiled header.
function(loza_room name)
  cmake_parse_arguments(ROOM "TORCH" "" "SOURCES;DEPENDS" ${ARGN})
  if(NOT ROOM_SOURCES)
    return()
  endif()
  add_library(loza_${name} STATIC ${ROOM_SOURCES})
  add_library(loza::${name} ALIAS loza_${name})
  set_target_properties(loza_${name} PROPERTIES EXPORT_NAME ${name})
  target_link_libraries(loza_${name} PUBLIC loza_compiler ${ROOM_DEPENDS})
  if(ROOM_TORCH)
    loza_use_torch(loza_${name})
  endif()
  loza_unite(loza_${name})
  set_property(GLOBAL APPEND PROPERTY LOZA_ROOMS loza_${name})
endfunction()

# Joins a target's files, several to a compilation: reading libtorch's headers costs more than
# compiling a file of ours. Names in the unnamed namespaces of a room must therefore differ.
function(loza_unite target)
  if(LOZA_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 6)
  endif()
endfunction()

# Links libtorch to a target and gives it the shared precompiled header.
function(loza_use_torch target)
  target_link_libraries(${target} PUBLIC loza_torch)
  if(NOT target STREQUAL loza_torch_pch)
    target_precompile_headers(${target} REUSE_FROM loza_torch_pch)
  endif()
  # The header is compiled as libraries are, and serves programs only if they are compiled alike.
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "EXECUTABLE")
    target_compile_options(${target} PRIVATE -fPIC)
  endif()
endfunction()

if(LOZA_TORCH)
  add_library(loza_torch INTERFACE)
  # libtorch brings headers of its own fmt, which would hide those of the one we link: a folder
  # that holds nothing but a link to ours comes first.
  get_target_property(fmt_include_dirs fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
  find_path(LOZA_FMT_INCLUDE_DIR fmt/format.h HINTS ${fmt_include_dirs})
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/fmt_first)
  file(CREATE_LINK ${LOZA_FMT_INCLUDE_DIR}/fmt ${CMAKE_BINARY_DIR}/fmt_first/fmt SYMBOLIC)
  target_include_directories(loza_torch INTERFACE $<BUILD_INTERFACE:${CMAKE_BINARY_DIR}/fmt_first>)
  target_include_directories(loza_torch SYSTEM INTERFACE "$<BUILD_INTERFACE:${TORCH_INCLUDE_DIRS}>")
  target_link_libraries(loza_torch INTERFACE $<BUILD_INTERFACE:torch> $<INSTALL_INTERFACE:torch>)

  file(WRITE ${CMAKE_BINARY_DIR}/loza_torch_pch.cpp "")
  add_library(loza_torch_pch OBJECT ${CMAKE_BINARY_DIR}/loza_torch_pch.cpp)
  target_link_libraries(loza_torch_pch PUBLIC loza_compiler loza_base loza_torch)
  target_precompile_headers(loza_torch_pch PRIVATE <torch/torch.h> <nlohmann/json.hpp> <fmt/format.h>)
endif()
