#include "loza/engine/text_stream.h"

#include <gtest/gtest.h>

#include "loza/base/random.h"
#include "loza/base/utf8.h"

namespace loza {
namespace {

struct Streamed {
  std::string text;
  std::vector<std::string> pieces;
  bool stopped = false;
};

Streamed stream(const std::vector<std::string>& chunks, const std::vector<std::string>& stops) {
  TextStream text_stream(stops);
  Streamed result;
  const auto take = [&](std::string piece) {
    result.text += piece;
    if (!piece.empty()) result.pieces.push_back(std::move(piece));
  };
  for (const std::string& chunk : chunks) take(text_stream.push(chunk));
  take(text_stream.finish());
  result.stopped = text_stream.stopped();
  return result;
}

std::vector<std::string> cut_at_random(const std::string& text, Random& random) {
  std::vector<std::string> chunks;
  for (std::size_t begin = 0; begin < text.size();) {
    const auto size = static_cast<std::size_t>(random.below(5));
    chunks.push_back(text.substr(begin, size));
    begin += chunks.back().size();
  }
  return chunks;
}

TEST(TextStream, ShowsTextAtOnceWithoutStops) {
  TextStream text_stream;
  EXPECT_EQ(text_stream.push("Hello"), "Hello");
  EXPECT_EQ(text_stream.push(""), "");
  EXPECT_EQ(text_stream.push(" world"), " world");
  EXPECT_EQ(text_stream.finish(), "");
}

TEST(TextStream, HoldsBackHalfACharacter) {
  TextStream text_stream;
  EXPECT_EQ(text_stream.push("a\xE2"), "a");
  EXPECT_EQ(text_stream.push("\x82"), "");
  EXPECT_EQ(text_stream.push("\xAC!"), "\u20AC!");
  EXPECT_EQ(text_stream.push("\xF0\x9F\x98"), "");
  EXPECT_EQ(text_stream.push("\x80"), "\U0001F600");
}

TEST(TextStream, ReplacesWhatCannotBecomeACharacter) {
  // The cases of Unicode 15, section 3.9, and those of a text that ends early.
  const std::pair<std::string, std::string> cases[] = {
      {"a\x80z", "a\uFFFDz"},
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41",
       "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
       "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41",
       "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
       "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42",
       "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
       "A\uFFFD\uFFFD"
       "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41",
       "\uFFFD\uFFFD\uFFFD\uFFFD"
       "A"},
      {"x\xE2\x82", "x\uFFFD"},
      {"x\xF0\x9F\x98", "x\uFFFD"},
      {"\xC2", "\uFFFD"},
  };
  Random random(1);
  for (const auto& [bytes, text] : cases) {
    EXPECT_EQ(stream({bytes}, {}).text, text);
    for (int round = 0; round < 20; ++round) {
      EXPECT_EQ(stream(cut_at_random(bytes, random), {}).text, text);
    }
  }
}

TEST(TextStream, StopsAcrossChunksAndShowsNothingOfTheStop) {
  const Streamed streamed = stream({"one ", "ST", "O", "P two"}, {"STOP"});
  EXPECT_TRUE(streamed.stopped);
  EXPECT_EQ(streamed.text, "one ");
  EXPECT_EQ(streamed.pieces, (std::vector<std::string>{"one "}));
}

TEST(TextStream, ReleasesWhatOnlyLookedLikeAStop) {
  TextStream text_stream({"STOP", "END"});
  EXPECT_EQ(text_stream.push("a ST"), "a ");
  EXPECT_EQ(text_stream.push("ill"), "STill");
  EXPECT_EQ(text_stream.push(" EN"), " ");
  EXPECT_EQ(text_stream.push("S"), "EN");  // the S may begin STOP
  EXPECT_EQ(text_stream.finish(), "S");
  EXPECT_FALSE(text_stream.stopped());
}

TEST(TextStream, OfSeveralStopsTheFirstCompleteOneCounts) {
  EXPECT_EQ(stream({"xabcdef"}, {"abcdef", "cd"}).text, "xab");
  EXPECT_EQ(stream({"xabcdef"}, {"bcd", "cd"}).text, "xa");
  EXPECT_EQ(stream({"aaab"}, {"aab"}).text, "a");
}

TEST(TextStream, NothingComesAfterAStop) {
  TextStream text_stream({"."});
  EXPECT_EQ(text_stream.push("end. more"), "end");
  EXPECT_EQ(text_stream.push("again"), "");
  EXPECT_EQ(text_stream.finish(), "");
}

TEST(TextStream, StopAfterHalfACharacter) {
  // The stop makes the half one final.
  EXPECT_EQ(stream({"a\xE2", "|", ">"}, {"|>"}).text, "a\uFFFD");
  EXPECT_EQ(stream({"\u20AC", "\xE2\x82", "\xAC"}, {"\u20AC\u20AC"}).text, "");
}

// Random texts over few letters, so that stops and their beginnings abound: the text does not
// depend on the cuts, is valid UTF-8 in each piece, and is the naive answer.
TEST(TextStream, RandomTextsDoNotDependOnTheCuts) {
  Random random(2);
  int num_stopped = 0;
  constexpr int kTexts = 20'000;
  const std::vector<std::string> letters = {"a",          "b",    "ab",   "\u00E9", "\u20AC",
                                            "\U0001F600", "\xE2", "\x82", "\xFF"};
  const auto random_text = [&](std::int64_t size, std::int64_t num_letters) {
    std::string text;
    for (std::int64_t i = 0; i < size; ++i) {
      text += letters[static_cast<std::size_t>(random.below(num_letters))];
    }
    return text;
  };
  for (int round = 0; round < kTexts; ++round) {
    const std::string text = random_text(random.below(30), 9);
    std::vector<std::string> stops;
    for (std::int64_t i = random.below(4); i > 0; --i) {
      stops.push_back(random_text(1 + random.below(4), 6));
    }
    // Naive: the first prefix that ends with a stop; of those the longest.
    std::size_t end = text.size();
    for (std::size_t size = 1; size <= text.size() && end == text.size(); ++size) {
      for (const std::string& stop : stops) {
        if (std::string_view(text).substr(0, size).ends_with(stop)) {
          end = std::min(end, size - stop.size());
        }
      }
      if (end != text.size()) break;
    }
    const Streamed whole = stream({text.substr(0, end)}, {});
    const Streamed cut = stream(cut_at_random(text, random), stops);
    ASSERT_EQ(cut.text, whole.text);
    ASSERT_EQ(stream({text}, stops).text, whole.text);
    for (const std::string& piece : cut.pieces) ASSERT_EQ(utf8_error(piece), piece.size());
    num_stopped += cut.stopped ? 1 : 0;
  }
  std::printf("%d texts, %d stopped\n", kTexts, num_stopped);
  EXPECT_GT(num_stopped, kTexts / 10);
}

}  // namespace
}  // namespace loza
