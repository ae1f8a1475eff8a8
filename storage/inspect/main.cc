// understudy-inspect: what is in a data directory, and whether it is whole, while no service has it open. Writes nothing.
#include <iostream>
#include <string>

#include "storage/base/command_line.h"
#include "storage/inspect/inspector.h"
#include "storage/inspect/views.h"

namespace understudy::storage {
namespace {

constexpr int kClean = 0;
constexpr int kDamaged = 1;
constexpr int kUsage = 2;

constexpr char kFooter[] =
    R"(Prints for each group its stage, term and epochs; its overlays (one epoch's writes each: role, bytes, extents, place in the
log); how far the index mirrors each log and what lies behind that; and its segments with their fill. Every record is checked
against the others: that it decodes, that extents lie inside their volumes, do not overlap and name segments that are there.
--verify reads all data as well and compares it with its checksums.

The service must be stopped; nothing is written. Damage is named by group, volume, epoch and range; what to do about it:
docs/operations.md, "Damage and scrub".

  understudy-inspect /var/lib/understudy --verify
  understudy-inspect /var/lib/understudy --group vm1 --extents --json | jq '.groups[].overlays[]'

Exit status: 0 clean; 1 damage was found, or the directory cannot be read ("error: ..." on standard error); 2 wrong usage.)";

int Usage(const std::string& problem) {
  std::cerr << "error: " << problem << "\nusage: understudy-inspect DATA-DIR --help\n";
  return kUsage;
}

int Main(int argc, char** argv) {
  InspectOptions options;
  bool json = false;
  base::CommandLine line("Looks at the data directory of a stopped understudyd and verifies it.",
                         "understudy-inspect");
  line.SetFooter(kFooter);
  line.SetVersion(UNDERSTUDY_VERSION);
  line.Add("DATA-DIR", options.data_dir, " ", "The service's --data-dir", {.required = true});
  line.Add("--group", options.group, "NAME", "Only this group");
  line.AddSwitch("--extents", options.extents, "List every extent");
  line.AddSwitch("--verify", options.verify, "Read all data and compare it with its checksums");
  line.AddSwitch("--json", json, "One JSON object instead of text for people");
  const absl::StatusOr<bool> go_on = line.Parse(argc, argv);
  if (!go_on.ok()) return Usage(std::string(go_on.status().message()));
  if (!*go_on) return kClean;
  const auto report = Inspect(options, base::FileSystem::Posix());
  if (!report.ok()) {
    std::cerr << "error: " << std::string(report.status().message()) << "\n";
    return absl::IsNotFound(report.status()) ? kUsage : kDamaged;
  }
  std::cout << (json ? JsonView(options, *report) : TextView(options, *report)) << std::flush;
  if (!std::cout) {
    std::cerr << "error: the report could not be written to standard output\n";
    return kDamaged;
  }
  return report->damages.empty() ? kClean : kDamaged;
}

}  // namespace
}  // namespace understudy::storage

int main(int argc, char** argv) { return understudy::storage::Main(argc, argv); }
