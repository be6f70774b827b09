// Gloo: libtorch's library has it, its wheels lack the headers, so that the build looks for
// Gloo's own (libgloo-dev). Nothing of them is called here: c10d holds what they declare behind
// pointers, so that they need not be of the version in libtorch.
#include "loza/base/error.h"
#include "loza/parallel/backends.h"

#ifdef LOZA_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <cstdlib>
#endif

namespace loza::backend {

#ifdef LOZA_GLOO

// As in torch.distributed: GLOO_SOCKET_IFNAME names the network interface; else the host's name
// says which, and the loopback where that leads nowhere.
c10::intrusive_ptr<c10d::Backend> make_gloo(const Place& place) {
  using Gloo = c10d::ProcessGroupGloo;
  const auto options = Gloo::Options::create(place.timeout);
  const char* const interface = std::getenv("GLOO_SOCKET_IFNAME");
  options->devices.push_back(interface != nullptr ? Gloo::createDeviceForInterface(interface)
                                                  : Gloo::createDefaultDevice());
  return c10::make_intrusive<Gloo>(place.store, place.rank, place.size, options);
}

#else

c10::intrusive_ptr<c10d::Backend> make_gloo(const Place&) {
  throw_usage("several processes", "a build with Gloo", "one without it",
              "install libgloo-dev and build again: CMake finds gloo/algorithm.h");
}

#endif

}  // namespace loza::backend
