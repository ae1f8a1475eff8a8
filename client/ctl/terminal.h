// client/ctl/terminal.h
//
// A view that is drawn again and again in the same place of a terminal, and stays there when it ends.
#ifndef UNDERSTUDY_CLIENT_CTL_TERMINAL_H_
#define UNDERSTUDY_CLIENT_CTL_TERMINAL_H_

#include <iosfwd>
#include <string>

namespace understudy::ctl {

class Terminal {
 public:
  struct Size {
    int rows = 24;
    int columns = 80;
    friend bool operator==(const Size&, const Size&) = default;
  };

  // Standard output is a terminal that knows how to move its cursor.
  static bool Usable();

  // `out` is standard output and outlives this. Hides the cursor.
  explicit Terminal(std::ostream& out);
  ~Terminal();  // shows it again, below the view

  Size size() const;  // asked anew each time: windows are resized
  // Replaces what was drawn before. Cuts `text` to the terminal's size.
  void Draw(const std::string& text);

 private:
  std::ostream& out_;
  Size drawn_size_;
  int drawn_lines_ = 0;
};

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_TERMINAL_H_
