#include "tests/coordinator/gateway/raw_requests.h"

namespace baton::coordinator {
namespace {

using std::string;
using namespace std::string_literals;

constexpr char kHost[] = "Host: a\r\n";

string get(const string& fields) { return "GET /health HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n"; }
string line(const string& request_line) { return request_line + "\r\nHost: a\r\n\r\n"; }
string post(const string& fields, const string& rest) {
  return "POST /tokenize HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" + rest;
}
string length(const string& value, const string& body = "{}") {
  return post("Content-Length: " + value + "\r\n", body);
}
string chunks(const string& rest) { return post("Transfer-Encoding: chunked\r\n", rest); }
string with_host(const string& field) { return "GET /health HTTP/1.1\r\n" + field + "\r\n"; }

void add_lengths(std::vector<RawRequest>& out) {
  const std::vector<RawRequest> cases = {
      {"CL exact", length("2"), {200}},
      {"CL zero", length("0", ""), {200}},
      {"CL lower-case name", post("content-length: 2\r\n", "{}"), {200}},
      {"CL without blank", post("Content-Length:2\r\n", "{}"), {200}},
      {"CL with tab and trailing blank", post("Content-Length:\t2 \r\n", "{}"), {200}},
      {"CL at the limit", length("8388608", string(8388608, 'x')), {200}},
      {"Content-Encoding gzip", post("Content-Encoding: gzip\r\nContent-Length: 2\r\n", "{}"), {415}},
      {"Content-Encoding identity", post("Content-Encoding: identity\r\nContent-Length: 2\r\n", "{}"), {200}},
      {"CL one over the limit", length("8388609", ""), {413}},
      {"CL huge", length("999999999999999999", ""), {413}},
      {"CL 2^63", length("9223372036854775808"), {400}},
      {"CL 2^64", length("18446744073709551616"), {400}},
      {"CL 2^64 plus 2", length("18446744073709551618"), {400}},
      {"CL 40 digits", length(string(40, '9')), {400}},
      {"CL plus sign", length("+2"), {400}},
      {"CL minus sign", length("-2"), {400}},
      {"CL minus zero", length("-0"), {400}},
      {"CL hex", length("0x2"), {400}},
      {"CL hex letter", length("a"), {400}},
      {"CL leading zero", length("02"), {400}},
      {"CL double zero", length("00", ""), {400}},
      {"CL list equal", length("2, 2"), {400}},
      {"CL list unequal", length("2, 3"), {400}},
      {"CL list without blank", length("2,2"), {400}},
      {"CL empty", length(""), {400}},
      {"CL blank only", length("  "), {400}},
      {"CL inner blank", length("1 2"), {400}},
      {"CL fraction", length("2.0"), {400}},
      {"CL exponent", length("2e0"), {400}},
      {"CL underscore", length("1_0"), {400}},
      {"CL trailing letter", length("2x"), {400}},
      {"CL quoted", length("\"2\""), {400}},
      {"CL wide digit", length("\xEF\xBC\x92"), {400}},
      {"CL CL equal", post("Content-Length: 2\r\nContent-Length: 2\r\n", "{}"), {400}},
      {"CL CL unequal", post("Content-Length: 2\r\nContent-Length: 3\r\n", "{}x"), {400}},
      {"CL CL other case", post("Content-Length: 2\r\ncontent-length: 2\r\n", "{}"), {400}},
      {"CL CL zero and more", post("Content-Length: 0\r\nContent-Length: 2\r\n", "{}"), {400}},
      {"POST without a length", post("", "{}"), {411}},
      {"PUT without a length", line("PUT /x HTTP/1.1"), {411}},
      {"body shorter than CL", length("5"), {0}},
      {"body longer than CL is the next request", length("2", "{}GET"), {200, 0}},
      {"body longer than CL, junk", length("2", "{}\r\n\r\n"), {200, 400}},
  };
  out.insert(out.end(), cases.begin(), cases.end());
}

void add_transfer_encodings(std::vector<RawRequest>& out) {
  const string end = "0\r\n\r\n";
  const auto te = [&](const string& value) { return post("Transfer-Encoding:" + value + "\r\n", end); };
  const std::vector<RawRequest> cases = {
      {"TE chunked", chunks("2\r\n{}\r\n0\r\n\r\n"), {200}},
      {"TE chunked, empty", chunks(end), {200}},
      {"TE lower-case name", post("transfer-encoding: chunked\r\n", end), {200}},
      {"CL.TE", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", end), {400}},
      {"TE.CL", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", end), {400}},
      {"CL.TE other order of case", post("content-length: 5\r\ntransfer-encoding: chunked\r\n", end), {400}},
      {"CL zero with TE", post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", end), {400}},
      {"CL.TE with a field between",
       post("Content-Length: 5\r\nA: b\r\nTransfer-Encoding: chunked\r\n", end),
       {400}},
      {"TE.TE", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", end), {400}},
      {"TE.TE identity first",
       post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", end),
       {400}},
      {"TE.TE x", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", end), {400}},
      {"TE upper case", te(" CHUNKED"), {200}},
      {"TE mixed case", te(" Chunked"), {200}},
      {"CL.TE, TE in mixed case", post("Content-Length: 5\r\nTransfer-Encoding: Chunked\r\n", end), {400}},
      {"TE.TE, one in mixed case",
       post("Transfer-Encoding: Chunked\r\nTransfer-Encoding: chunked\r\n", end),
       {400}},
      {"TE tab before", te("\tchunked"), {200}},
      {"TE vertical tab",
       te(" \x0b"
          "chunked"),
       {400}},
      {"TE form feed after", te(" chunked\x0c"), {400}},
      {"TE trailing comma", te(" chunked,"), {400}},
      {"TE leading comma", te(" ,chunked"), {400}},
      {"TE identity", te(" identity"), {400}},
      {"TE gzip", te(" gzip"), {400}},
      {"TE gzip, chunked", te(" gzip, chunked"), {400}},
      {"TE chunked, gzip", te(" chunked, gzip"), {400}},
      {"TE chunked, chunked", te(" chunked, chunked"), {400}},
      {"TE chunked, identity", te(" chunked, identity"), {400}},
      {"TE empty", te(""), {400}},
      {"TE x chunked", te(" xchunked"), {400}},
      {"TE chunked with a parameter", te(" chunked;q=1"), {400}},
      {"TE quoted", te(" \"chunked\""), {400}},
      {"TE single quoted", te(" 'chunked'"), {400}},
      {"TE high byte", te(" chunked\xff"), {400}},
      {"TE name with a blank", post("Transfer-Encoding : chunked\r\n", end), {400}},
      {"TE name with an underscore is another field",
       post("Transfer_Encoding: chunked\r\nContent-Length: 2\r\n", "{}"),
       {200}},
      {"TE on HTTP/1.0",
       "POST /tokenize HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + end,
       {400}},
      {"TE on GET", get("Transfer-Encoding: chunked\r\n") + end, {400}},
      {"TE folded", post("Transfer-Encoding:\r\n chunked\r\n", end), {400}},
      {"TE behind a bare LF", post("A: b\nTransfer-Encoding: chunked\r\n", end), {400}},
      {"TE behind a bare CR", post("A: b\rTransfer-Encoding: chunked\r\n", end), {400}},
  };
  out.insert(out.end(), cases.begin(), cases.end());
}

void add_chunks(std::vector<RawRequest>& out) {
  string many, too_many;
  for (int i = 0; i < 16384; ++i) many += "1\r\nx\r\n";
  too_many = many + "1\r\nx\r\n";
  const string tail = "\r\n{}\r\n0\r\n\r\n";
  const std::vector<RawRequest> cases = {
      {"chunks, two", chunks("1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"), {200}},
      {"chunk size upper-case hex", chunks("A\r\n0123456789\r\n0\r\n\r\n"), {200}},
      {"chunk size lower-case hex", chunks("a\r\n0123456789\r\n0\r\n\r\n"), {200}},
      {"chunk size leading zeros", chunks("0002" + tail), {200}},
      {"chunk size 16 digits", chunks("0000000000000002" + tail), {200}},
      {"chunk size 17 digits", chunks("00000000000000002" + tail), {400}},
      {"chunk size 0x", chunks("0x2" + tail), {400}},
      {"chunk size plus", chunks("+2" + tail), {400}},
      {"chunk size minus", chunks("-2" + tail), {400}},
      {"chunk size underscore", chunks("1_0" + tail), {400}},
      {"chunk size empty", chunks(tail), {400}},
      {"chunk size letter g", chunks("g" + tail), {400}},
      {"chunk size leading blank", chunks(" 2" + tail), {400}},
      {"chunk size trailing blank", chunks("2 " + tail), {400}},
      {"chunk size trailing tab", chunks("2\t" + tail), {400}},
      {"chunk size comma", chunks("2,2" + tail), {400}},
      {"chunk size fraction", chunks("2.0" + tail), {400}},
      {"chunk size NUL", chunks("2\0"s + tail), {400}},
      {"chunk size all f", chunks("ffffffffffffffff\r\n"), {413}},
      {"chunk size 2^63", chunks("8000000000000000\r\n"), {413}},
      {"chunk size one over the limit", chunks("800001\r\n"), {413}},
      {"chunk sum one over the limit", chunks("1\r\nx\r\n800000\r\n"), {413}},
      {"chunk size line with bare LF", chunks("2\n{}\r\n0\r\n\r\n"), {400}},
      {"chunk size line with bare CR", chunks("2\r{}\r\n0\r\n\r\n"), {400}},
      {"chunk bytes without CRLF", chunks("2\r\n{}0\r\n\r\n"), {400}},
      {"chunk bytes with LF", chunks("2\r\n{}\n0\r\n\r\n"), {400}},
      {"chunk bytes with CR CR", chunks("2\r\n{}\r\r\n0\r\n\r\n"), {400}},
      {"chunk bytes with CR x", chunks("2\r\n{}\rx0\r\n\r\n"), {400}},
      {"chunk longer than said", chunks("2\r\n{}x\r\n0\r\n\r\n"), {400}},
      {"chunk shorter than said", chunks("3\r\n{}\r\n0\r\n\r\n"), {400}},
      {"chunk extension name", chunks("2;a" + tail), {200}},
      {"chunk extension value", chunks("2;a=b" + tail), {200}},
      {"chunk extension quoted", chunks("2;a=\"b;c\"" + tail), {200}},
      {"chunk extension quoted pair", chunks("2;a=\"b\\\"c\"" + tail), {200}},
      {"chunk extensions, two", chunks("2;a=b;c" + tail), {200}},
      {"chunk extension at the limit", chunks("2;" + string(255, 'a') + tail), {200}},
      {"chunk extension over the limit", chunks("2;" + string(256, 'a') + tail), {400}},
      {"chunk extension without end", chunks("2;" + string(5000, 'a')), {400}},
      {"chunk extension bad quotes", chunks("2;a=\"b" + tail), {400}},
      {"chunk extension text after the quote", chunks("2;a=\"b\"c" + tail), {400}},
      {"chunk extension empty name", chunks("2;" + tail), {400}},
      {"chunk extension empty value", chunks("2;a=" + tail), {400}},
      {"chunk extension blank", chunks("2; a" + tail), {400}},
      {"chunk extension blank before", chunks("2 ;a" + tail), {400}},
      {"chunk extension bare LF", chunks("2;a\n{}\r\n0\r\n\r\n"), {400}},
      {"chunk extension NUL", chunks("2;a\0"s + tail), {400}},
      {"last chunk many zeros", chunks("000\r\n\r\n"), {200}},
      {"last chunk with an extension", chunks("0;a=b\r\n\r\n"), {200}},
      {"last chunk bare LF", chunks("0\n\n"), {400}},
      {"last chunk, then LF", chunks("0\r\n\n"), {400}},
      {"data after the last chunk", chunks("0\r\nabc\r\n\r\n"), {400}},
      {"data after the last chunk, next request", chunks("0\r\n\r\n") + get(""), {200, 200}},
      {"junk after the body", chunks("0\r\n\r\n{}\r\n"), {200, 400}},
      {"chunks at the limit", chunks(many + "0\r\n\r\n"), {200}},
      {"chunks one over the limit", chunks(too_many + "0\r\n\r\n"), {413}},
      {"trailer dropped", chunks("0\r\nX-Sum: 1\r\n\r\n"), {200}},
      {"trailer with Content-Length", chunks("0\r\nContent-Length: 5\r\n\r\n"), {400}},
      {"trailer with Transfer-Encoding", chunks("0\r\nTransfer-Encoding: chunked\r\n\r\n"), {400}},
      {"trailer with Host", chunks("0\r\nHost: b\r\n\r\n"), {400}},
      {"trailer with Authorization", chunks("0\r\nauthorization: x\r\n\r\n"), {400}},
      {"trailer folded", chunks("0\r\nA: b\r\n c\r\n\r\n"), {400}},
      {"trailer with bare LF", chunks("0\r\nA: b\n\r\n"), {400}},
      {"trailer without a colon", chunks("0\r\nA\r\n\r\n"), {400}},
      {"trailer blank before the colon", chunks("0\r\nA : b\r\n\r\n"), {400}},
      {"trailer too large", chunks("0\r\nA: " + string(16384, 'x') + "\r\n\r\n"), {431}},
      {"chunked, cut in the size", chunks("2"), {0}},
      {"chunked, cut in the bytes", chunks("2\r\n{"), {0}},
      {"chunked, cut in the trailer", chunks("0\r\nA: b\r\n"), {0}},
  };
  out.insert(out.end(), cases.begin(), cases.end());
}

void add_request_lines(std::vector<RawRequest>& out) {
  const auto path = [](size_t bytes) { return "/" + string(bytes - 1, 'a'); };
  const std::vector<RawRequest> cases = {
      {"GET", line("GET / HTTP/1.1"), {200}},
      {"query", line("GET /a?b=c&d=%20 HTTP/1.1"), {200}},
      {"unknown method is for the routes", line("BREW /pot HTTP/1.1"), {200}},
      {"lower-case method", line("get / HTTP/1.1"), {400}},
      {"mixed-case method", line("Get / HTTP/1.1"), {400}},
      {"method with a digit", line("GET1 / HTTP/1.1"), {400}},
      {"method empty", line(" / HTTP/1.1"), {400}},
      {"method with NUL", line("GE\0T / HTTP/1.1"s), {400}},
      {"method 17 letters", line("ABCDEFGHIJKLMNOPQ / HTTP/1.1"), {400}},
      {"method high byte", line("G\xc9T / HTTP/1.1"), {400}},
      {"HTTP/0.9", "GET /\r\n", {400}},
      {"HTTP/0.9 by name", line("GET / HTTP/0.9"), {400}},
      {"HTTP/1.0", line("GET / HTTP/1.0"), {200}},
      {"HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", {200}},
      {"HTTP/1.2", line("GET / HTTP/1.2"), {400}},
      {"HTTP/1.10", line("GET / HTTP/1.10"), {400}},
      {"HTTP/1.01", line("GET / HTTP/1.01"), {400}},
      {"HTTP/01.1", line("GET / HTTP/01.1"), {400}},
      {"HTTP/2.0", line("GET / HTTP/2.0"), {400}},
      {"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}},
      {"http lower case", line("GET / http/1.1"), {400}},
      {"version missing", line("GET / "), {400}},
      {"version HTTP", line("GET / HTTP"), {400}},
      {"version with a blank", line("GET / HTTP/1.1 "), {400}},
      {"two blanks after the method", line("GET  / HTTP/1.1"), {400}},
      {"two blanks before the version", line("GET /  HTTP/1.1"), {400}},
      {"tab between", line("GET\t/\tHTTP/1.1"), {400}},
      {"leading CRLF", "\r\n" + line("GET / HTTP/1.1"), {200}},
      {"leading CRLF before a body", "\r\n" + length("2"), {200}},
      {"leading CRLF twice", "\r\n\r\n" + line("GET / HTTP/1.1"), {400}},
      {"leading LF", "\n" + line("GET / HTTP/1.1"), {400}},
      {"leading CR", "\r" + line("GET / HTTP/1.1"), {400}},
      {"leading CRLF and a field", "\r\nHost: a\r\n\r\n", {400}},
      {"leading blank", line(" GET / HTTP/1.1"), {400}},
      {"target with a blank", line("GET /a b HTTP/1.1"), {400}},
      {"target with NUL", line("GET /a\0b HTTP/1.1"s), {400}},
      {"target with a high byte", line("GET /\xc3\xa9 HTTP/1.1"), {400}},
      {"target with DEL", line("GET /\x7f HTTP/1.1"), {400}},
      {"target with a tab", line("GET /a\tb HTTP/1.1"), {400}},
      {"target with a fragment", line("GET /a#b HTTP/1.1"), {400}},
      {"target with a backslash", line("GET \\a HTTP/1.1"), {400}},
      {"target with bad percent", line("GET /%zz HTTP/1.1"), {400}},
      {"target with cut percent", line("GET /%2 HTTP/1.1"), {400}},
      {"target with percent NUL is for the routes", line("GET /%00 HTTP/1.1"), {200}},
      {"target without a slash", line("GET a HTTP/1.1"), {400}},
      {"target empty", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", {400}},
      {"target of 4 KiB", line("GET " + path(4096) + " HTTP/1.1"), {200}},
      {"target of 4 KiB + 1", line("GET " + path(4097) + " HTTP/1.1"), {414}},
      {"target without end", "GET " + path(9000), {414}},
      {"absolute, same host", line("GET http://a/health HTTP/1.1"), {200}},
      {"absolute, same host, other case", line("GET HTTP://A/health HTTP/1.1"), {200}},
      {"absolute, no path", line("GET http://a HTTP/1.1"), {200}},
      {"absolute, other host", line("GET http://b/ HTTP/1.1"), {400}},
      {"absolute, other port", line("GET http://a:1/ HTTP/1.1"), {400}},
      {"absolute, user", line("GET http://u@a/ HTTP/1.1"), {400}},
      {"absolute, empty host", line("GET http:/// HTTP/1.1"), {400}},
      {"absolute, no Host field", "GET http://a/ HTTP/1.1\r\n\r\n", {400}},
      {"absolute, ftp", line("GET ftp://a/ HTTP/1.1"), {400}},
      {"asterisk", line("OPTIONS * HTTP/1.1"), {200}},
      {"asterisk with GET", line("GET * HTTP/1.1"), {400}},
      {"authority", line("CONNECT a:1 HTTP/1.1"), {400}},
      {"authority with GET", line("GET a:1 HTTP/1.1"), {400}},
      {"CONNECT path", line("CONNECT / HTTP/1.1"), {400}},
      {"request line with bare LF", "GET / HTTP/1.1\nHost: a\r\n\r\n", {400}},
      {"request line with bare CR", "GET / HTTP/1.1\rHost: a\r\n\r\n", {400}},
      {"request line CR CR LF", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", {400}},
      {"TLS hello", "\x16\x03\x01\x02\x00\x01\x00\r\n"s, {400}},
      {"empty lines only", "\r\n\r\n", {400}},
      {"cut in the request line", "GET / HT", {0}},
      {"nothing", "", {0}},
  };
  out.insert(out.end(), cases.begin(), cases.end());
}

void add_fields(std::vector<RawRequest>& out) {
  string hundred, hundred_one;
  for (int i = 0; i < 99; ++i) hundred += "F" + std::to_string(i) + ": v\r\n";
  hundred_one = hundred + "Last: v\r\n";
  const size_t frame = get("A: \r\n").size();
  const std::vector<RawRequest> cases = {
      {"Host missing", "GET / HTTP/1.1\r\n\r\n", {400}},
      {"Host missing, another field", "GET / HTTP/1.1\r\nA: b\r\n\r\n", {400}},
      {"Host twice equal", with_host("Host: a\r\nHost: a\r\n"), {400}},
      {"Host twice unequal", with_host("Host: a\r\nHost: b\r\n"), {400}},
      {"Host twice, other case", with_host("Host: a\r\nhost: b\r\n"), {400}},
      {"Host twice on HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", {400}},
      {"Host empty", with_host("Host:\r\n"), {400}},
      {"Host with port", with_host("Host: localhost:8000\r\n"), {200}},
      {"Host IPv6", with_host("Host: [::1]:8000\r\n"), {200}},
      {"Host IPv6 open", with_host("Host: [::1\r\n"), {400}},
      {"Host with a blank", with_host("Host: a b\r\n"), {400}},
      {"Host list", with_host("Host: a, b\r\n"), {400}},
      {"Host with a path", with_host("Host: a/b\r\n"), {400}},
      {"Host with a user", with_host("Host: u@a\r\n"), {400}},
      {"Host with a bad port", with_host("Host: a:b\r\n"), {400}},
      {"Host with a long port", with_host("Host: a:123456\r\n"), {400}},
      {"Host with no port digits", with_host("Host: a:\r\n"), {400}},
      {"Host with a high byte", with_host("Host: a\xff\r\n"), {400}},
      {"blank before the colon", get("A : b\r\n"), {400}},
      {"tab before the colon", get("A\t: b\r\n"), {400}},
      {"folded with a blank", get("A: b\r\n c\r\n"), {400}},
      {"folded with a tab", get("A: b\r\n\tc\r\n"), {400}},
      {"folded first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", {400}},
      {"field of one blank", get(" \r\n"), {400}},
      {"field without a colon", get("A\r\n"), {400}},
      {"field with an empty name", get(": b\r\n"), {400}},
      {"field with an empty value", get("A:\r\n"), {200}},
      {"field name with a bracket", get("A(: b\r\n"), {400}},
      {"field name with a high byte", get("A\xff: b\r\n"), {400}},
      {"field name with NUL", get("A\0: b\r\n"s), {400}},
      {"field name with a slash", get("A/B: b\r\n"), {400}},
      {"field name of all token characters", get("!#$%&'*+-.^_`|~09azAZ: b\r\n"), {200}},
      {"value with NUL", get("A: b\0c\r\n"s), {400}},
      {"value with a control", get("A: b\x01\r\n"), {400}},
      {"value with escape", get("A: b\x1b[0m\r\n"), {400}},
      {"value with DEL", get("A: b\x7f\r\n"), {400}},
      {"value with a tab", get("A: b\tc\r\n"), {200}},
      {"value with 0x80", get("A: b\x80\r\n"), {200}},
      {"value with 0xff", get("A: b\xff\r\n"), {200}},
      {"field with bare LF", get("A: b\nC: d\r\n"), {400}},
      {"field with bare CR", get("A: b\rC: d\r\n"), {400}},
      {"field with CR CR LF", get("A: b\r\r\n"), {400}},
      {"head ended by LF LF", "GET / HTTP/1.1\r\nHost: a\n\n", {400}},
      {"head ended by CRLF LF", "GET / HTTP/1.1\r\nHost: a\r\n\n", {400}},
      {"head ended by CR CR", "GET / HTTP/1.1\r\nHost: a\r\n\r\r", {400}},
      {"100 fields", get(hundred), {200}},
      {"101 fields", get(hundred_one), {431}},
      {"head of 16 KiB", get("A: " + string(16384 - frame, 'x') + "\r\n"), {200}},
      {"head of 16 KiB + 1", get("A: " + string(16385 - frame, 'x') + "\r\n"), {431}},
      {"head without end", "GET / HTTP/1.1\r\nA: " + string(20000, 'x'), {431}},
      {"Expect 100", post("Expect: 100-continue\r\nContent-Length: 2\r\n", "{}"), {200}},
      {"Expect other", post("Expect: 200-ok\r\nContent-Length: 2\r\n", "{}"), {400}},
      {"Expect list", post("Expect: 100-continue, x\r\nContent-Length: 2\r\n", "{}"), {400}},
      {"Expect empty", post("Expect:\r\nContent-Length: 2\r\n", "{}"), {400}},
      {"GET with a body", get("Content-Length: 2\r\n") + "{}", {200}},
      {"GET with a body of 16 KiB", get("Content-Length: 16384\r\n") + string(16384, 'x'), {200}},
      {"GET with a body of 16 KiB + 1", get("Content-Length: 16385\r\n"), {400}},
      {"GET with a body shorter than CL", get("Content-Length: 3\r\n") + "{}", {0}},
      {"GET with a body and TE", get("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n") + "{}", {400}},
      {"GET with CL 0", get("Content-Length: 0\r\n"), {200}},
      {"GET with an undeclared body", get("") + "{}\r\n", {200, 400}},
      {"HEAD with a body", "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", {400}},
      {"DELETE with a body", "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", {400}},
      {"OPTIONS with a body", "OPTIONS / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", {400}},
      {"h2c upgrade is not taken",
       get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"),
       {200}},
      {"websocket upgrade is not taken", get("Connection: Upgrade\r\nUpgrade: websocket\r\n"), {200}},
      {"pipelined, two clean", get("") + get(""), {200, 200}},
      {"pipelined, clean then broken", get("") + get("A : b\r\n"), {200, 400}},
      {"pipelined, broken then clean", get("A : b\r\n") + get(""), {400}},
      {"pipelined, POST then GET", length("2") + get(""), {200, 200}},
      {"smuggled behind CL 0", length("0", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n"), {200, 200}},
      {"cut in a field", "GET / HTTP/1.1\r\n"s + kHost + "A: ", {0}},
      {"cut before the last LF", "GET / HTTP/1.1\r\n"s + kHost + "\r", {0}},
  };
  out.insert(out.end(), cases.begin(), cases.end());
}

}  // namespace

std::vector<RawRequest> raw_requests() {
  std::vector<RawRequest> out;
  add_lengths(out);
  add_transfer_encodings(out);
  add_chunks(out);
  add_request_lines(out);
  add_fields(out);
  return out;
}

}  // namespace baton::coordinator
