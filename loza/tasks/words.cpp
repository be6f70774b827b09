#include "loza/tasks/words.h"

#include <fmt/format.h>

#include <array>

#include "loza/base/check.h"

namespace loza {
namespace {

constexpr std::array<const char*, 256> kAdjectives = {
    "able",     "active",   "actual", "airy",     "alert",    "alive",   "amber",    "ample",
    "ancient",  "apt",      "autumn", "avid",     "awake",    "aware",   "azure",    "bald",
    "bare",     "basic",    "bitter", "black",    "bland",    "blank",   "blond",    "blue",
    "blunt",    "bold",     "brief",  "bright",   "brisk",    "broad",   "bronze",   "brown",
    "bulky",    "busy",     "calm",   "candid",   "careful",  "central", "cheap",    "cheerful",
    "chief",    "civil",    "clean",  "close",    "cloudy",   "clumsy",  "coarse",   "cold",
    "colorful", "common",   "cool",   "copper",   "coral",    "cosmic",  "costly",   "cozy",
    "crisp",    "crude",    "cruel",  "curious",  "curly",    "cute",    "daily",    "damp",
    "dapper",   "daring",   "dark",   "dear",     "decent",   "deep",    "dense",    "direct",
    "distant",  "dizzy",    "double", "dry",      "dull",     "dusty",   "eager",    "early",
    "earnest",  "easy",     "elder",  "elegant",  "empty",    "endless", "equal",    "exact",
    "exotic",   "faint",    "fair",   "faithful", "famous",   "fancy",   "fatal",    "fierce",
    "fine",     "firm",     "fluffy", "fond",     "formal",   "fragile", "frank",    "free",
    "fresh",    "friendly", "frosty", "frozen",   "funny",    "fuzzy",   "gentle",   "giant",
    "gifted",   "glossy",   "golden", "good",     "graceful", "grand",   "grateful", "gray",
    "great",    "grim",     "grumpy", "happy",    "hard",     "harsh",   "hasty",    "hazy",
    "heavy",    "helpful",  "hidden", "high",     "hollow",   "honest",  "humble",   "hungry",
    "icy",      "ideal",    "idle",   "indigo",   "inner",    "jolly",   "joyful",   "keen",
    "kind",     "large",    "lavish", "lazy",     "lean",     "light",   "likely",   "linear",
    "little",   "lively",   "local",  "lone",     "long",     "loud",    "lovely",   "loyal",
    "lucky",    "lunar",    "magic",  "mellow",   "merry",    "mighty",  "minor",    "misty",
    "modern",   "modest",   "moist",  "narrow",   "native",   "neat",    "nervous",  "new",
    "nimble",   "noble",    "noisy",  "novel",    "odd",      "open",    "orange",   "oval",
    "pale",     "perfect",  "pink",   "polite",   "proper",   "proud",   "quick",    "rapid",
    "rare",     "ready",    "red",    "rich",     "rigid",    "ripe",    "robust",   "rosy",
    "round",    "royal",    "rural",  "rustic",   "sacred",   "salty",   "scarlet",  "serene",
    "shady",    "sharp",    "short",  "silky",    "sleepy",   "slim",    "slow",     "small",
    "smart",    "smooth",   "snowy",  "soft",     "solar",    "solid",   "stable",   "steady",
    "steep",    "sticky",   "stormy", "strict",   "sturdy",   "subtle",  "sunny",    "sweet",
    "swift",    "tender",   "thick",  "thin",     "tidy",     "tiny",    "tough",    "true",
    "urban",    "useful",   "vague",  "vast",     "velvet",   "violet",  "vital",    "warm",
    "wild",     "windy",    "wise",   "witty",    "wooden",   "woolly",  "young",    "zesty",
};

constexpr std::array<const char*, 256> kNouns = {
    "actor",   "alley",  "almond",   "anchor",  "arch",    "arrow",    "artist",  "atlas",
    "attic",   "ball",   "bamboo",   "banana",  "banjo",   "barn",     "barrel",  "basket",
    "beach",   "beacon", "bear",     "beaver",  "bell",    "bench",    "berry",   "bicycle",
    "blanket", "boat",   "bottle",   "bowl",    "branch",  "brick",    "broom",   "bucket",
    "button",  "cabin",  "cable",    "cactus",  "cake",    "camel",    "camera",  "canyon",
    "captain", "carpet", "carrot",   "castle",  "cat",     "cave",     "cellar",  "chair",
    "cheese",  "cherry", "chess",    "chimney", "church",  "circle",   "circus",  "city",
    "clam",    "cliff",  "clock",    "cloud",   "clover",  "coach",    "coat",    "coin",
    "cotton",  "crab",   "crayon",   "cricket", "crow",    "crown",    "cup",     "curtain",
    "cushion", "daisy",  "deer",     "desert",  "diamond", "diary",    "dinner",  "doctor",
    "dolphin", "donkey", "door",     "dragon",  "drawer",  "dream",    "ear",     "earth",
    "echo",    "eel",    "elbow",    "elm",     "engine",  "falcon",   "farm",    "feather",
    "fence",   "fern",   "ferry",    "fiddle",  "field",   "fire",     "fish",    "flag",
    "flame",   "flower", "fog",      "forest",  "fork",    "fountain", "frog",    "fruit",
    "galaxy",  "garage", "garden",   "gate",    "geese",   "giraffe",  "glass",   "globe",
    "glove",   "goat",   "goose",    "grape",   "grass",   "guitar",   "hammer",  "harbor",
    "harp",    "hawk",   "hedge",    "helmet",  "heron",   "hill",     "honey",   "hotel",
    "house",   "island", "jar",      "jelly",   "jewel",   "jungle",   "key",     "kitten",
    "knee",    "knight", "ladder",   "lamp",    "lantern", "leaf",     "lemon",   "letter",
    "library", "lily",   "lion",     "lock",    "lotus",   "machine",  "map",     "maple",
    "marble",  "market", "meadow",   "mirror",  "monkey",  "moon",     "moth",    "motor",
    "mouse",   "museum", "mushroom", "napkin",  "needle",  "nest",     "oak",     "oasis",
    "olive",   "onion",  "orchard",  "otter",   "owl",     "oyster",   "paddle",  "palace",
    "parrot",  "path",   "peanut",   "pear",    "pebble",  "pencil",   "pepper",  "piano",
    "pilot",   "pirate", "pocket",   "potato",  "prince",  "puddle",   "pumpkin", "puppet",
    "puppy",   "queen",  "quilt",    "raft",    "rain",    "ranch",    "ribbon",  "river",
    "robin",   "rocket", "roof",     "rose",    "ruler",   "saddle",   "sailor",  "salad",
    "salmon",  "sand",   "shadow",   "sheep",   "shell",   "ship",     "shovel",  "skate",
    "sofa",    "spider", "squirrel", "star",    "stone",   "table",    "tailor",  "teapot",
    "temple",  "tent",   "thunder",  "toast",   "tower",   "train",    "tree",    "trumpet",
    "tulip",   "tunnel", "uncle",    "valley",  "vase",    "village",  "violin",  "wagon",
    "walnut",  "whale",  "wheel",    "window",  "winter",  "wizard",   "wolf",    "yacht",
};

constexpr auto kNumNames = std::int64_t{kAdjectives.size() * kNouns.size()};

}  // namespace

const char* random_adjective(Random& random) {
  return kAdjectives[static_cast<std::size_t>(random.below(kAdjectives.size()))];
}

const char* random_noun(Random& random) {
  return kNouns[static_cast<std::size_t>(random.below(kNouns.size()))];
}

std::string random_uuid(Random& random) {
  const std::uint64_t high = random.next(), low = random.next();
  return fmt::format("{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}", high >> 32, (high >> 16) & 0xFFFF,
                     high & 0xFFF, 0x8000 | ((low >> 48) & 0x3FFF), low & 0xFFFFFFFFFFFFull);
}

std::string UniqueNames::next() {
  const bool two_words = static_cast<std::int64_t>(used_.size()) < kNumNames;
  const std::int64_t first = two_words ? 0 : kNumNames;
  const std::int64_t num = two_words ? kNumNames : kNumNames * kAdjectives.size();
  LOZA_CHECK(static_cast<std::int64_t>(used_.size()) < num, used_.size());
  std::int64_t i = first + random_.below(num);
  while (!used_.insert(i).second) i = first + random_.below(num);
  const auto idx = static_cast<std::size_t>(i % kNumNames);
  const std::string name =
      fmt::format("{}-{}", kAdjectives[idx / kNouns.size()], kNouns[idx % kNouns.size()]);
  if (two_words) return name;
  return fmt::format("{}-{}", kAdjectives[static_cast<std::size_t>(i / kNumNames) - 1], name);
}

std::string UniqueLetters::next() {
  std::string letters;
  do {
    letters.clear();
    for (int i = 0; i < num_letters_; ++i) {
      letters += static_cast<char>(first_letter_ + random_.below(26));
    }
  } while (!used_.insert(letters).second);
  return letters;
}

std::string UniqueNumbers::next() {
  std::int64_t low = 1;
  for (int i = 1; i < num_digits_; ++i) low *= 10;
  if (10 * static_cast<std::int64_t>(used_.size()) >= 9 * 9 * low) used_.clear();
  std::int64_t number = low + random_.below(9 * low);
  while (!used_.insert(number).second) number = low + random_.below(9 * low);
  return fmt::format("{}", number);
}

}  // namespace loza
