#!/bin/sh
# Each fault in each phase of a transfer 30 times, on one host and between two (root). Usage: faults.sh BUILD_FOLDER [LIVES]
set -e
export BATON_FAULT_LIVES="${2:-30}"
"$1/tests/worker/kv_transfer/fault_phases_test"
"$1/tests/worker/kv_transfer/two_hosts_test" --gtest_repeat="$BATON_FAULT_LIVES" --gtest_break_on_failure
