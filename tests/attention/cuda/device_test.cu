#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

// Without a Hopper GPU the whole program is skipped, not failed.
namespace loza::attention::cuda {
namespace {

class HopperDevice : public testing::Environment {
 public:
  void SetUp() override {
    int count = 0;
    cudaDeviceProp device = {};
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0 ||
        cudaGetDeviceProperties(&device, 0) != cudaSuccess || device.major != 9) {
      GTEST_SKIP() << "these tests need a GPU of compute capability 9.0";
    }
  }
};

const auto* const kDevice = testing::AddGlobalTestEnvironment(new HopperDevice);

}  // namespace
}  // namespace loza::attention::cuda
