#include "storage/base/config_file.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "storage/base/status_macros.h"

namespace understudy::base {
namespace {

constexpr char kQuoteIt[] = ": put the value in quotes";

absl::Status Problem(absl::string_view a, absl::string_view b = "", absl::string_view c = "") {
  return absl::InvalidArgumentError(absl::StrCat(a, b, c));
}

bool StartsWithQuote(absl::string_view text) {
  return !text.empty() && (text[0] == '"' || text[0] == '\'');
}

// Whether only a comment is left.
bool AtEnd(absl::string_view text) { return text.empty() || text[0] == '#'; }

// Takes "..." or '...' from the front of `text`, and the blanks behind it.
absl::StatusOr<std::string> TakeQuoted(absl::string_view* text) {
  const size_t end = text->find((*text)[0], 1);
  if (end == absl::string_view::npos) {
    return Problem("the quote before ", text->substr(1), " is not closed in this line");
  }
  std::string value(text->substr(1, end - 1));
  *text = absl::StripLeadingAsciiWhitespace(text->substr(end + 1));
  return value;
}

// `text` without the comment behind it. Nothing is cut that might be meant.
absl::StatusOr<std::string> Unquoted(absl::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const bool after_blank = i == 0 || absl::ascii_isspace(static_cast<unsigned char>(text[i - 1]));
    if (text[i] == ';' && after_blank) {
      return Problem(text, kQuoteIt, "; behind a value, a comment begins with #");
    }
    if (text[i] != '#') continue;
    if (!after_blank) return Problem(text, kQuoteIt, ", or a blank before the # of a comment");
    text = text.substr(0, i);
  }
  return std::string(absl::StripTrailingAsciiWhitespace(text));
}

class Parser {
 public:
  explicit Parser(absl::string_view text) : rest_(text) {}

  ConfigLines Parse() {
    while (!rest_.empty()) {
      absl::string_view text = NextLine();
      if (AtEnd(text) || text[0] == ';') continue;
      if (text == "[default]") continue;  // in files of earlier releases: what has no heading
      ConfigLine line{.number = number_};
      const absl::Status status = ParseLine(text, &line);
      if (status.ok()) {
        found_.lines.push_back(std::move(line));
      } else {
        found_.problems.push_back({line.number, std::string(status.message())});
      }
    }
    return std::move(found_);
  }

 private:
  // Without blanks around it.
  absl::string_view NextLine() {
    const size_t end = rest_.find('\n');
    const absl::string_view line = absl::StripAsciiWhitespace(rest_.substr(0, end));
    rest_.remove_prefix(end == absl::string_view::npos ? rest_.size() : end + 1);
    ++number_;
    return line;
  }

  absl::Status ParseLine(absl::string_view text, ConfigLine* line) {
    if (text[0] == '[') {
      return Problem(text, ": there are no sections; leave this line out");
    }
    const size_t equals = text.find('=');
    if (equals == absl::string_view::npos) {
      ASSIGN_OR_RETURN(line->key, Unquoted(text));
      return absl::OkStatus();
    }
    line->key = std::string(absl::StripTrailingAsciiWhitespace(text.substr(0, equals)));
    text = absl::StripLeadingAsciiWhitespace(text.substr(equals + 1));
    if (absl::ConsumePrefix(&text, "[")) return ParseList(text, line);
    if (StartsWithQuote(text)) return ParseQuoted(text, line);
    line->quoted = false;
    ASSIGN_OR_RETURN(line->values.emplace_back(), Unquoted(text));
    return absl::OkStatus();
  }

  // "a", "b"
  static absl::Status ParseQuoted(absl::string_view text, ConfigLine* line) {
    do {
      text = absl::StripLeadingAsciiWhitespace(text);
      if (!StartsWithQuote(text)) return Problem(text, " follows a comma and has no quotes");
      ASSIGN_OR_RETURN(line->values.emplace_back(), TakeQuoted(&text));
    } while (absl::ConsumePrefix(&text, ","));
    return AtEnd(text) ? absl::OkStatus() : Problem(text, " follows the value");
  }

  // What follows [, in this line or in later ones.
  absl::Status ParseList(absl::string_view text, ConfigLine* line) {
    bool comma = true;
    while (true) {
      text = absl::StripLeadingAsciiWhitespace(text);
      if (AtEnd(text)) {
        if (rest_.empty()) return Problem("the list that begins here has no ]");
        text = NextLine();
      } else if (absl::ConsumePrefix(&text, "]")) {
        if (line->values.empty()) return Problem("the list is empty");
        text = absl::StripLeadingAsciiWhitespace(text);
        return AtEnd(text) ? absl::OkStatus() : Problem(text, " follows the list");
      } else if (!comma) {
        if (!absl::ConsumePrefix(&text, ",")) return Problem(text, " follows without a comma");
        comma = true;
      } else {
        ASSIGN_OR_RETURN(line->values.emplace_back(), TakeOfList(&text));
        comma = false;
      }
    }
  }

  static absl::StatusOr<std::string> TakeOfList(absl::string_view* text) {
    if (StartsWithQuote(*text)) return TakeQuoted(text);
    const absl::string_view item = text->substr(0, text->find_first_of(",]"));
    if (item.empty()) return Problem("a value is missing before ", *text);
    if (item.find_first_of("\"'#") != absl::string_view::npos) return Problem(item, kQuoteIt);
    text->remove_prefix(item.size());
    return std::string(absl::StripTrailingAsciiWhitespace(item));
  }

  absl::string_view rest_;
  int number_ = 0;
  ConfigLines found_;
};

}  // namespace

ConfigLines ParseConfig(absl::string_view text) { return Parser(text).Parse(); }

}  // namespace understudy::base
