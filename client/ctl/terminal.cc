#include "client/ctl/terminal.h"

#include <cstdlib>
#include <ostream>
#include <sys/ioctl.h>
#include <unistd.h>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace understudy::ctl {
namespace {

constexpr char kHideCursor[] = "\x1b[?25l";
constexpr char kShowCursor[] = "\x1b[?25h";
constexpr char kClearLine[] = "\x1b[K\n";
constexpr char kClearBelow[] = "\x1b[J";
constexpr char kClearAll[] = "\x1b[2J\x1b[H";

}  // namespace

bool Terminal::Usable() {
  const char* const type = std::getenv("TERM");
  return isatty(STDOUT_FILENO) == 1 && type != nullptr && std::string(type) != "dumb";
}

Terminal::Terminal(std::ostream& out) : out_(out), drawn_size_(size()) { out_ << kHideCursor; }

Terminal::~Terminal() { out_ << kShowCursor << std::flush; }

Terminal::Size Terminal::size() const {
  winsize window = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_row == 0 || window.ws_col == 0) {
    return {};
  }
  return {.rows = window.ws_row, .columns = window.ws_col};
}

void Terminal::Draw(const std::string& text) {
  const Size size = this->size();
  std::string frame;
  if (size != drawn_size_) {
    frame = kClearAll;  // what was drawn is wrapped anew, nobody knows where
  } else if (drawn_lines_ > 0) {
    frame = absl::StrCat("\r\x1b[", drawn_lines_, "A");
  }
  drawn_size_ = size;
  drawn_lines_ = 0;
  for (const absl::string_view line : absl::StrSplit(absl::StripSuffix(text, "\n"), '\n')) {
    if (drawn_lines_ + 1 >= size.rows) break;  // the cursor stands on the line below
    absl::StrAppend(&frame, line.substr(0, static_cast<size_t>(size.columns)), kClearLine);
    ++drawn_lines_;
  }
  out_ << frame << kClearBelow << std::flush;
}

}  // namespace understudy::ctl
