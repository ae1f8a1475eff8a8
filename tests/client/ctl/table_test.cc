#include "client/ctl/table.h"

#include <gtest/gtest.h>

namespace understudy::ctl::table_test {
namespace {

TEST(TableTest, ColumnsAreAsWideAsTheirWidestCell) {
  Table table({"A", "LONG", "C"});
  table.Add({"wide cell", "1", "x"});
  table.Add({"", "22", "yy"});
  EXPECT_EQ(table.Render(),
            "A          LONG  C\n"
            "wide cell  1     x\n"
            "-          22    yy\n");
  EXPECT_EQ(table.Render(2).substr(0, 5), "  A  ");
}

TEST(TableTest, WithoutRowsNothingIsPrinted) { EXPECT_EQ(Table({"A", "B"}).Render(), ""); }

}  // namespace
}  // namespace understudy::ctl::table_test
