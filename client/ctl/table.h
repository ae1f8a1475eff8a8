// client/ctl/table.h
//
// Text in columns, for people: a heading, then rows, columns two blanks apart, each as wide as its widest cell.
#ifndef UNDERSTUDY_CLIENT_CTL_TABLE_H_
#define UNDERSTUDY_CLIENT_CTL_TABLE_H_

#include <string>
#include <vector>

namespace understudy::ctl {

class Table {
 public:
  using Row = std::vector<std::string>;

  explicit Table(Row heading) : rows_{std::move(heading)} {}

  // As many cells as the heading has. An empty cell is printed as "-".
  void Add(Row row);
  // `indent` blanks in front of every line; no blanks at line ends; nothing at all without a row.
  std::string Render(int indent = 0) const;

 private:
  std::vector<Row> rows_;  // the heading first
};

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_TABLE_H_
