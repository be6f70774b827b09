# loza_use_cuda(TARGET): how a target's .cu files are compiled. CMake 3.25 does not know
# C++20 for nvcc, so the options say it. -Xptxas -v prints what scripts/check_ptxas judges.
set(CMAKE_CUDA_STANDARD_REQUIRED OFF)
if(NOT CMAKE_CUDA_FLAGS_RELEASE)
  set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
endif()

function(loza_use_cuda target)
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES OFF CUDA_RUNTIME_LIBRARY Static)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:
    -std=c++20 -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr -lineinfo
    -Xptxas=-v>)
endfunction()
