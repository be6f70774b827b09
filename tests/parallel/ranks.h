#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "loza/parallel/join.h"

namespace loza::testing {

inline sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return address;
}

// A port of the loopback that nobody uses now.
inline int free_port() {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof(address);
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw std::runtime_error("no free port");
  }
  ::close(listener);
  return ntohs(address.sin_port);
}

inline Launch launch_of(int rank, int size, int port) {
  Launch launch;
  launch.rank = launch.local_rank = rank;
  launch.size = launch.local_size = size;
  launch.address = "localhost";
  launch.port = port;
  return launch;
}

// Runs the body on threads that are the ranks of a group over Gloo, as the program runs a command.
// Returns what each rank's error says; empty where it had none.
inline std::vector<std::string> run_ranks(int size, const std::function<void(Group&)>& body,
                                          const JoinOptions& options = {}) {
  const int port = free_port();
  std::vector<std::string> errors(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    // The store first: who finds none waits a while before the next try.
    if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    threads.emplace_back([&, rank] {
      std::string& line = errors[static_cast<std::size_t>(rank)];
      try {
        const std::unique_ptr<Group> group = join(launch_of(rank, size, port), options);
        try {
          body(*group);
          group->leave();
        } catch (const std::exception& error) {
          group->fail(error.what());
          throw;
        }
      } catch (const std::exception& error) {
        line = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

inline std::vector<std::string> no_errors(int size) {
  return std::vector<std::string>(static_cast<std::size_t>(size));
}

}  // namespace loza::testing
