#include "storage/base/command_line.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <sstream>
#include <unistd.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include <CLI/CLI.hpp>

#include "storage/base/config_file.h"
#include "storage/base/nearest.h"
#include "storage/base/status_macros.h"
#include "storage/base/text.h"

namespace understudy::base {

struct KeptSetting {
  Setting setting;
  std::vector<std::string> values = {};  // of flags
};

namespace {

constexpr char kPrefix[] = "UNDERSTUDY_";

std::string VariableOf(absl::string_view setting) {
  return absl::StrCat(kPrefix, absl::StrReplaceAll(absl::AsciiStrToUpper(setting), {{"-", "_"}}));
}

void AddSetting(CLI::App& app, KeptSetting& kept) {
  const auto& [name, help, shape] = kept.setting;
  CLI::Option* const option = app.add_option("--" + name, kept.values, help);
  option->type_name(absl::StrCat("TEXT (Env:", VariableOf(name), ")"));
  option->allow_extra_args(false);
  if (shape == Setting::kMany) {
    option->take_all();
  } else if (shape == Setting::kOne) {
    option->expected(1)->take_last();
  }
}

// A word that is no UTF-8 is told with the flag before it.
absl::Status CheckWords(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const bool of_a_flag = i > 1 && argv[i - 1][0] == '-' && argv[i][0] != '-';
    RETURN_IF_ERROR(CheckUtf8(of_a_flag ? argv[i - 1] : absl::StrCat("argument ", i), argv[i]));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (file && file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
  if (file.bad() || !text || !file.is_open()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--config: ", path, ": cannot be read: ", std::strerror(errno)));
  }
  return text.str();
}

// What is wrong with a line whose key is known; empty: nothing.
std::string ProblemOf(const ConfigLine& line, const Setting& setting) {
  const bool many = setting.shape == Setting::kMany;
  if (line.values.empty() && setting.shape != Setting::kSwitch) {
    return absl::StrCat(line.key, " has no value: ", line.key, " = VALUE");
  }
  if (line.values.size() > 1 && !many) {
    return absl::StrCat(line.key, " has ", line.values.size(), " values; it takes one");
  }
  if (many && !line.quoted && line.values[0].find_first_of(", \t") != std::string::npos) {
    return absl::StrCat(line.key, " = ", line.values[0],
                        ": may be one value or several: put each in quotes, or each on a line");
  }
  return "";
}

// Names of ours that variables of the environment are like, and are not.
std::vector<std::string> MisspeltVariables(const std::vector<std::string>& names) {
  std::vector<std::string> problems;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const absl::string_view text(*entry);
    if (absl::EndsWith(text, "=")) continue;
    const absl::string_view variable = text.substr(0, text.find('='));
    absl::string_view word = variable;
    if (!absl::ConsumePrefix(&word, kPrefix)) continue;
    const std::string nearest = Nearest(word, names);
    if (nearest.empty() || VariableOf(nearest) == variable) continue;
    problems.push_back(absl::StrCat(variable, ": no such variable, did you mean ",
                                    VariableOf(nearest), "? Else unset it"));
  }
  return problems;
}

// A switch may stand alone on the command line: CLI11 would take the next argument for its value.
std::vector<std::string> SpellSwitches(int argc, char** argv,
                                       const std::deque<KeptSetting>& settings) {
  std::vector<std::string> words(argv, argv + argc);
  for (std::string& word : words) {
    for (const auto& [setting, _] : settings) {
      if (setting.shape == Setting::kSwitch && word == "--" + setting.name) word += "=true";
    }
  }
  return words;
}

}  // namespace

struct CommandLine::Impl {
  CLI::App* app;
  std::unique_ptr<CLI::App> program = {};  // owns `app`; none in a command: the program's owns that
  std::vector<std::pair<const CLI::Option*, bool*>> given = {};
  std::vector<std::unique_ptr<CommandLine>> commands = {};
  std::deque<KeptSetting> settings = {};  // they stay where they are: CLI11 points to the values
  std::string config = {};
  std::vector<std::string> variables = {};  // that flags have, as names of settings
  std::vector<std::string> unknown = {};
  std::vector<Given> in_file = {};
  std::vector<std::string> problems = {};  // of the file and the variables

  void TellGiven() const {
    for (const auto& [option, told] : given) *told |= option->count() > 0;
    for (const auto& command : commands) command->impl_->TellGiven();
  }

  std::vector<std::string> SettingNames() const {
    std::vector<std::string> names;
    for (const KeptSetting& kept : settings) names.push_back(kept.setting.name);
    return names;
  }

  // All flags, also those of no setting.
  std::vector<std::string> FlagNames() const {
    std::vector<std::string> names;
    for (const CLI::Option* option : app->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    return names;
  }

  void ReadConfig() {
    if (config.empty()) return;
    const absl::StatusOr<std::string> text = ReadFile(config);
    if (!text.ok()) {
      problems.emplace_back(text.status().message());
      return;
    }
    const ConfigLines parsed = ParseConfig(*text);
    const auto where = [this](int line) { return absl::StrCat(config, ":", line, ": "); };
    for (const auto& [line, problem] : parsed.problems) problems.push_back(where(line) + problem);
    for (const ConfigLine& line : parsed.lines) {
      const std::string problem = Take(line, where(line.number));
      if (!problem.empty()) problems.push_back(where(line.number) + problem);
    }
  }

  std::string Take(const ConfigLine& line, const std::string& where) {
    const auto kept = std::find_if(settings.begin(), settings.end(), [&](const KeptSetting& known) {
      return known.setting.name == line.key;
    });
    if (kept == settings.end()) {
      return absl::StrCat("unknown key \"", line.key, "\"", DidYouMean(line.key, SettingNames()));
    }
    std::string problem = ProblemOf(line, kept->setting);
    if (!problem.empty()) return problem;
    if (kept->setting.shape != Setting::kMany) {
      for (const Given& before : in_file) {
        if (before.key == line.key) {
          return absl::StrCat(line.key, " is given twice, before at ",
                              absl::StripSuffix(before.where, ": "));
        }
      }
    }
    if (line.values.empty()) in_file.push_back({line.key, "true", where});
    for (const std::string& value : line.values) in_file.push_back({line.key, value, where});
    return "";
  }
};

CommandLine::CommandLine(std::string description, std::string name)
    : impl_(new Impl{.app = new CLI::App(std::move(description), std::move(name))}) {
  impl_->program.reset(impl_->app);
}
CommandLine::CommandLine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CommandLine::~CommandLine() = default;

void CommandLine::Add(const std::string& name, std::string& value, const std::string& type,
                      const std::string& help, const FlagExtras& extras) {
  CLI::Option* const option = impl_->app->add_option(name, value, help)->type_name(type);
  option->envname(extras.environment)->required(extras.required);
  if (!extras.environment.empty()) {
    impl_->variables.emplace_back(absl::StripPrefix(extras.environment, kPrefix));
  }
  if (extras.show_default) option->capture_default_str();
  if (extras.given != nullptr) impl_->given.emplace_back(option, extras.given);
}

void CommandLine::Add(const std::string& name, std::vector<std::string>& values,
                      const std::string& type, const std::string& help) {
  CLI::Option* const option = impl_->app->add_option(name, values, help)->type_name(type);
  option->allow_extra_args(false)->take_all();
}

void CommandLine::AddSwitch(const std::string& name, bool& value, const std::string& help) {
  impl_->app->add_flag(name, value, help);
}

void CommandLine::AddSettings(std::vector<Setting> settings) {
  for (Setting& setting : settings) {
    AddSetting(*impl_->app, impl_->settings.emplace_back(KeptSetting{std::move(setting)}));
  }
  impl_->app->add_option("--config", impl_->config,
                         "Configuration file, lines KEY = VALUE; flags beat it, it beats "
                         "UNDERSTUDY_* variables");
  AllowUnknown();
}

CommandLine& CommandLine::AddCommand(const std::string& name, const std::string& help) {
  impl_->app->require_subcommand(0, 1);
  CLI::App* const command = impl_->app->add_subcommand(name, help)->fallthrough();
  impl_->commands.emplace_back(new CommandLine(std::unique_ptr<Impl>(new Impl{.app = command})));
  return *impl_->commands.back();
}

void CommandLine::SetFooter(const std::string& footer) { impl_->app->footer(footer); }

void CommandLine::SetVersion(const std::string& version) {
  impl_->app->set_version_flag("--version", version);
}

void CommandLine::AllowUnknown() { impl_->app->allow_extras(); }

absl::StatusOr<bool> CommandLine::Parse(int argc, char** argv) {
  RETURN_IF_ERROR(CheckWords(argc, argv));
  const std::vector<std::string> words = SpellSwitches(argc, argv, impl_->settings);
  std::vector<const char*> pointers;
  for (const std::string& word : words) pointers.push_back(word.c_str());
  try {
    impl_->app->parse(argc, pointers.data());
  } catch (const CLI::Success& help_or_version) {
    impl_->app->exit(help_or_version);
    return false;
  } catch (const CLI::ParseError& malformed) {
    return absl::InvalidArgumentError(malformed.what());
  }
  impl_->TellGiven();
  impl_->unknown = impl_->app->remaining(/*recurse=*/true);
  impl_->ReadConfig();
  std::vector<std::string> variables = impl_->SettingNames();
  variables.insert(variables.end(), impl_->variables.begin(), impl_->variables.end());
  const std::vector<std::string> misspelt = MisspeltVariables(variables);
  if (impl_->settings.empty() && !misspelt.empty()) {
    return absl::InvalidArgumentError(misspelt.front());
  }
  impl_->problems.insert(impl_->problems.end(), misspelt.begin(), misspelt.end());
  return true;
}

std::string CommandLine::command() const {
  const std::vector<CLI::App*> given = impl_->app->get_subcommands();
  return given.empty() ? "" : given.back()->get_name();
}

std::string CommandLine::NearestTo(const std::string& word) const {
  const auto all = [](const CLI::App*) { return true; };
  std::vector<std::string> known;
  if (!absl::StartsWith(word, "-")) {
    for (const CLI::App* const command : impl_->app->get_subcommands(all)) {
      known.push_back(command->get_name());
    }
    return Nearest(word, known);
  }
  std::vector<const CLI::App*> lines = {impl_->app};
  for (const CLI::App* const given : impl_->app->get_subcommands()) lines.push_back(given);
  for (const CLI::App* const line : lines) {
    for (const CLI::Option* const option : line->get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
  }
  return Nearest(word.substr(0, word.find('=')), known);
}

const std::vector<std::string>& CommandLine::unknown() const { return impl_->unknown; }

std::vector<std::string> CommandLine::Problems() const {
  std::vector<std::string> problems;
  for (const std::string& word : impl_->unknown) {
    const absl::string_view name = absl::string_view(word).substr(0, word.find('='));
    const bool flag = absl::StartsWith(name, "--");
    problems.push_back(
        absl::StrCat("unknown: ", word, flag ? DidYouMean(name, impl_->FlagNames()) : ""));
  }
  problems.insert(problems.end(), impl_->problems.begin(), impl_->problems.end());
  return problems;
}

std::vector<CommandLine::Given> CommandLine::GivenSettings() const {
  std::vector<Given> given;
  for (const auto& [setting, values] : impl_->settings) {
    const size_t before = given.size();
    for (const std::string& value : values) given.push_back({setting.name, value});
    if (given.size() > before) continue;
    for (const Given& line : impl_->in_file) {
      if (line.key == setting.name) given.push_back(line);
    }
    if (given.size() > before) continue;
    const std::string variable = VariableOf(setting.name);
    const char* const value = std::getenv(variable.c_str());
    if (value != nullptr && *value != '\0') {
      given.push_back({setting.name, value, absl::StrCat(variable, ": ")});
    }
  }
  return given;
}

}  // namespace understudy::base
