// tests/testing/sim_rocksdb_env.h
//
// A rocksdb::Env whose files are those of a SimDisk; threads and clock are the real ones. RocksDB's information log is thrown
// away: it would put I/Os of no consequence between those that count.
#ifndef UNDERSTUDY_TESTS_TESTING_SIM_ROCKSDB_ENV_H_
#define UNDERSTUDY_TESTS_TESTING_SIM_ROCKSDB_ENV_H_

#include <memory>

#include <rocksdb/env.h>

#include "tests/testing/sim_disk.h"

namespace understudy::testing {

// `disk` outlives it.
std::unique_ptr<rocksdb::Env> NewSimRocksdbEnv(SimDisk& disk);

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_TESTING_SIM_ROCKSDB_ENV_H_
