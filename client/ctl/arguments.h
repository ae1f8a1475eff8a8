// client/ctl/arguments.h
//
// From the words of a command line to the request it stands for (client/ctl/invocation.h). The
// words come as typed: every check is here, so that all that is wrong is told at once.
#ifndef UNDERSTUDY_CLIENT_CTL_ARGUMENTS_H_
#define UNDERSTUDY_CLIENT_CTL_ARGUMENTS_H_

#include <map>
#include <string>
#include <variant>
#include <vector>

namespace understudy::ctl {

struct Invocation;

// As typed; an option that was not given is empty.
struct Arguments {
  std::string server;
  std::string usual_server;  // where a call without --server goes
  std::string timeout = "10s";
  bool json = false;
  std::string command;  // "start"; empty: none
  std::string group;
  std::string mode;
  std::vector<std::string> volumes;
  bool takeover = false;
  bool prepare = false;
  bool commit_given = false;
  std::string commit;
  bool abandon = false;
  bool failover = false;
  bool received = false;
  bool epoch_given = false;
  std::string epoch;
  bool force = false;
  bool wait = false;
  bool rate_given = false;
  std::string rate;
  std::string name;
  std::string bytes_max;
  std::string ttl;
  bool list = false;
  bool remove_given = false;
  std::string remove;
  std::string expected_term;         // empty: not checked
  std::string expected_incarnation;  // likewise; 32 hexadecimal digits, as status prints it
  std::string refresh = "1s";
  std::string resume;
  std::string failback_map;
  bool failback_map_given = false;
  bool qmp_given = false;
  std::string qmp;
  std::string device;
  std::string nbd_socket;
  bool no_wait = false;
  bool full = false;
  bool declare_complete = false;
  bool terminal = false;  // standard output is one that can be drawn on
  bool request_id_given = false;
  std::string request_id;
  std::vector<std::string> unknown;            // words that no command or flag took
  std::map<std::string, std::string> nearest;  // of these, what may have been meant
};

// Either an invocation or what is wrong with the words, one problem each.
std::variant<Invocation, std::vector<std::string>> Interpret(const Arguments& arguments);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_ARGUMENTS_H_
