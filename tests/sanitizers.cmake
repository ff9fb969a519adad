# Tests in a build with BATON_SANITIZE (README.md). The processes of a test are often not its own: workers, ranks, peers. So whoever finds
# something writes it into <build>/reports, and the test sanitizer_reports, which runs behind those that were chosen, fails if there is a file.
set(BATON_REPORTS ${PROJECT_BINARY_DIR}/reports)

# baton_sanitized(NAME): adds to a test what it needs in such a build; nothing in others.
function(baton_sanitized name)
  if(NOT BATON_SANITIZE)
    return()
  endif()
  get_test_property(${name} TIMEOUT seconds)
  math(EXPR seconds "${seconds} * 10")
  set_tests_properties(${name} PROPERTIES TIMEOUT ${seconds} FIXTURES_REQUIRED sanitizer_reports)
  set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT
    "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/tsan.supp:log_path=${BATON_REPORTS}/report"
    "ASAN_OPTIONS=log_path=${BATON_REPORTS}/report"
    "UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1")
  if(BATON_SANITIZE MATCHES thread)  # UCX's memory hooks run after TSan has dropped an ending thread
    set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT "UCX_MEM_EVENTS=n")
  endif()
endfunction()

if(BATON_SANITIZE)
  add_test(NAME sanitizer_reports_begin
    COMMAND ${CMAKE_COMMAND} -DREPORTS=${BATON_REPORTS} -DBEGIN=1 -P ${CMAKE_CURRENT_SOURCE_DIR}/reports.cmake)
  add_test(NAME sanitizer_reports COMMAND ${CMAKE_COMMAND} -DREPORTS=${BATON_REPORTS} -P ${CMAKE_CURRENT_SOURCE_DIR}/reports.cmake)
  set_tests_properties(sanitizer_reports_begin PROPERTIES FIXTURES_SETUP sanitizer_reports)
  set_tests_properties(sanitizer_reports PROPERTIES FIXTURES_CLEANUP sanitizer_reports)
endif()
