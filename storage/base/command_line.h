// storage/base/command_line.h
//
// CommandLine takes the words of a command line apart, into variables of the caller, and answers --help and --version. CLI11 does
// the work. Each source that includes it takes more than ten seconds longer to compile, so only command_line.cc does.
//
// Variables  belong to the caller and outlive Parse(). What is not given stays as it is.
// Settings   flags of a daemon that are also keys of the file of --config (config_file.h) and
//            variables UNDERSTUDY_NAME. A flag beats the file, which beats the variable; an empty
//            variable is none. The daemon's options check the values, so that all that is wrong is
//            told at once, each with its file and line or its variable. CLI11 sees neither file nor
//            variables.
// Misspelt   words, keys, and variables that begin with UNDERSTUDY_ are wrong; the nearest name is
//            told. A variable that is like none of ours is somebody else's: Kubernetes sets
//            UNDERSTUDY_SERVICE_HOST beside a Service named understudy.
#ifndef UNDERSTUDY_STORAGE_BASE_COMMAND_LINE_H_
#define UNDERSTUDY_STORAGE_BASE_COMMAND_LINE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace understudy::base {

// What not every flag has.
struct FlagExtras {
  std::string environment;    // UNDERSTUDY_..., read when the flag is not given; empty: none
  bool show_default = false;  // the help shows what the caller's variable holds now
  bool required = false;
  bool* given = nullptr;  // becomes true when there was a value, be it an empty one
};

struct Setting {
  std::string name;  // without dashes
  std::string help;
  // One value, of repeated flags the last one; each counts; it may stand alone, which says true.
  enum { kOne, kMany, kSwitch } shape = kOne;
};

class CommandLine {
 public:
  // An empty `name`: the help shows the program as it was called.
  explicit CommandLine(std::string description, std::string name = "");
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  // A flag ("--group") or a positional argument ("GROUP") with one value, which the help calls `type`.
  void Add(const std::string& name, std::string& value, const std::string& type,
           const std::string& help, const FlagExtras& extras = {});
  // One that may be repeated; each time it takes one value.
  void Add(const std::string& name, std::vector<std::string>& values, const std::string& type,
           const std::string& help);
  void AddSwitch(const std::string& name, bool& value, const std::string& help);
  // Once, and then no other flags: see above. Unknown words are allowed.
  void AddSettings(std::vector<Setting> settings);

  // "start" in `understudyctl start vm1`; at most one of them is given. This owns it; flags of this may follow its own.
  CommandLine& AddCommand(const std::string& name, const std::string& help);
  void SetFooter(const std::string& footer);
  void SetVersion(const std::string& version);  // what --version prints
  // What no flag takes is kept instead of being an error. Comes before AddCommand(), so that it holds for them as well.
  void AllowUnknown();

  // Once. True: go on. False: --help or --version, which is answered on standard output. kInvalidArgument says what is malformed.
  absl::StatusOr<bool> Parse(int argc, char** argv);

  // After Parse():
  std::string command() const;  // the name of the one that was given; empty: none
  const std::vector<std::string>& unknown() const;
  // Which command, or for a word with dashes which flag that could stand there, is like an unknown
  // one; empty: none is.
  std::string NearestTo(const std::string& word) const;
  // Hands the settings to options.Set(key, value), in the order of their table, and asks options.Validate(). Returns what is wrong,
  // beginning with the unknown words and what is not understood of the file.
  template <typename Options>
  std::vector<std::string> Fill(Options& options) const {
    std::vector<std::string> problems = Problems();
    const auto note = [&problems](const std::string& where, const absl::Status& status) {
      if (!status.ok()) problems.push_back(where + std::string(status.message()));
    };
    for (const Given& given : GivenSettings()) {
      note(given.where, options.Set(given.key, given.value));
    }
    note("", options.Validate());
    return problems;
  }

 private:
  struct Impl;
  struct Given {
    std::string key;
    std::string value;
    std::string where = {};  // "FILE:LINE: " or "UNDERSTUDY_NAME: "; empty: a flag
  };
  explicit CommandLine(std::unique_ptr<Impl> impl);
  std::vector<std::string> Problems() const;
  std::vector<Given> GivenSettings() const;

  std::unique_ptr<Impl> impl_;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_COMMAND_LINE_H_
