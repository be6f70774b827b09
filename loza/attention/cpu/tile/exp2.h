#pragma once

// Coefficients of a polynomial for 2^f, f in [0, 1), of least relative error: 7.5e-8 in exact
// arithmetic, 1.5e-7 in fp32. (Remez exchange; the constant term comes first.)
namespace loza::cpu {
namespace {

constexpr float kExp2Coefficients[] = {0.99999994f,   0.693153083f,   0.240153611f,
                                       0.0558263175f, 0.00898933969f, 0.00187757669f};

}  // namespace
}  // namespace loza::cpu
