#pragma once

// Coefficients of a polynomial for 2^f, f in [0, 1), of least relative error among those that
// begin with 1: 8.3e-8 in exact arithmetic, 1.5e-7 in fp32. (Remez exchange; the constant term
// comes first.) 2^0 must be 1: what a row has summed up is multiplied by it whenever its
// maximum stays.
namespace loza::cpu {
namespace {

constexpr float kExp2Coefficients[] = {1.0f,          0.693151295f,   0.240164444f,
                                       0.0557999127f, 0.00901703071f, 0.00186713005f};

}  // namespace
}  // namespace loza::cpu
