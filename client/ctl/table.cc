#include "client/ctl/table.h"

#include <algorithm>
#include <utility>

#include "storage/base/log.h"

namespace understudy::ctl {

void Table::Add(Row row) {
  UNDERSTUDY_CHECK(row.size() == rows_.front().size());
  for (std::string& cell : row) {
    if (cell.empty()) cell.push_back('-');
  }
  rows_.push_back(std::move(row));
}

std::string Table::Render(int indent) const {
  if (rows_.size() == 1) return "";
  std::vector<size_t> widths(rows_.front().size());
  for (const Row& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const Row& row : rows_) {
    text.append(static_cast<size_t>(indent), ' ');
    for (size_t i = 0; i + 1 < row.size(); ++i) {
      text += row[i] + std::string(widths[i] - row[i].size() + 2, ' ');
    }
    text += row.back() + "\n";
  }
  return text;
}

}  // namespace understudy::ctl
