// RULER's needle tasks: what a needle is, and what it is hidden in.
#include <fmt/format.h>

#include <utility>

#include "loza/base/error.h"
#include "loza/tasks/haystack.h"
#include "loza/tasks/needles.h"
#include "loza/tasks/registry.h"

namespace loza {
namespace {

struct NiahForm {
  const char* task;
  enum { kNoise, kProse, kProseOrCode, kNeedles } haystack;
  NeedleForm needles = {};
};

// One of those given, by chance when both may be and are.
const Haystack& choose_haystack(const NiahForm& form, const TaskOptions& options, Random& random) {
  const bool any = form.haystack == NiahForm::kProseOrCode;
  const bool prefer_code = any && random.below(2) == 1;
  const Haystack* chosen = prefer_code ? options.code : options.prose;
  if (chosen == nullptr && any) chosen = prefer_code ? options.prose : options.code;
  if (chosen == nullptr) {
    throw_usage(fmt::format("task '{}'", form.task), "a text to hide needles in", "none",
                any ? "give a prose or code file" : "give a prose file");
  }
  return *chosen;
}

// The text from a random piece on; it begins again where it ends, as RULER does.
NextFiller pieces_of(const Haystack& haystack, Random& random) {
  const auto num_pieces = static_cast<std::int64_t>(haystack.num_pieces());
  return [&haystack, num_pieces, piece_idx = random.below(num_pieces)]() mutable {
    const auto piece = haystack.piece(static_cast<std::size_t>(piece_idx));
    piece_idx = (piece_idx + 1) % num_pieces;
    return std::string(piece);
  };
}

Document make_needle_document(const NiahForm& form, const TaskOptions& options,
                              std::int64_t index) {
  Random random = document_random(form.task, options.seed, index);
  NeedleWriter writer(form.needles, options.wording, random);
  const bool reads_text =
      form.haystack == NiahForm::kProse || form.haystack == NiahForm::kProseOrCode;
  const Haystack* text = reads_text ? &choose_haystack(form, options, random) : nullptr;

  NeedleWriter::Needles needles = writer.write(options.num_questions);
  for (std::int64_t i = 0; i < form.needles.distractors_per_question * options.num_questions; ++i) {
    needles.sentences.push_back(writer.write_distractor());
  }
  NextFiller filler = [] { return std::string(kNoise); };
  if (text != nullptr) filler = pieces_of(*text, random);
  if (form.haystack == NiahForm::kNeedles) filler = [&] { return writer.write_distractor(); };
  const auto ordered_len = static_cast<std::size_t>(form.needles.values_per_key);
  const auto hidden = scatter(std::move(needles.sentences), ordered_len, random);
  return hide(form.task, options, writer.opening(), hidden, std::move(needles.turns), filler,
              random);
}

}  // namespace

const char* const kNoise =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";

Document make_niah(const TaskOptions& options, std::int64_t index) {
  return make_needle_document({"niah", NiahForm::kProseOrCode}, options, index);
}

Document make_noise(const TaskOptions& options, std::int64_t index) {
  return make_needle_document({"noise", NiahForm::kNoise}, options, index);
}

Document make_niah_single_1(const TaskOptions& options, std::int64_t index) {
  return make_needle_document({"niah-single-1", NiahForm::kNoise}, options, index);
}

Document make_niah_single_2(const TaskOptions& options, std::int64_t index) {
  return make_needle_document({"niah-single-2", NiahForm::kProse}, options, index);
}

Document make_niah_single_3(const TaskOptions& options, std::int64_t index) {
  const NeedleForm needles = {.value = NeedleWord::kUuid};
  return make_needle_document({"niah-single-3", NiahForm::kProse, needles}, options, index);
}

Document make_niah_multikey_1(const TaskOptions& options, std::int64_t index) {
  const NeedleForm needles = {.distractors_per_question = 3};
  return make_needle_document({"niah-multikey-1", NiahForm::kProse, needles}, options, index);
}

Document make_niah_multikey_2(const TaskOptions& options, std::int64_t index) {
  return make_needle_document({"niah-multikey-2", NiahForm::kNeedles}, options, index);
}

Document make_niah_multikey_3(const TaskOptions& options, std::int64_t index) {
  const NeedleForm needles = {.key = NeedleWord::kUuid, .value = NeedleWord::kUuid};
  return make_needle_document({"niah-multikey-3", NiahForm::kNeedles, needles}, options, index);
}

Document make_niah_multivalue(const TaskOptions& options, std::int64_t index) {
  const NeedleForm needles = {.values_per_key = 4};
  return make_needle_document({"niah-multivalue", NiahForm::kProse, needles}, options, index);
}

Document make_niah_multiquery(const TaskOptions& options, std::int64_t index) {
  const NeedleForm needles = {.keys_per_question = 4};
  return make_needle_document({"niah-multiquery", NiahForm::kProse, needles}, options, index);
}

}  // namespace loza
