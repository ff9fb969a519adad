#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "coordinator/gateway/http_message.h"
#include "coordinator/gateway/routes.h"

// Requests that a page of another origin makes in a browser (CORS, the Fetch standard). The browser shows the
// page an answer only when its fields say so, and asks before it sends what an HTML form could not (a
// preflight: OPTIONS). Operators' paths never say so. Cookies are not used, so Allow-Credentials is never
// sent. Functions only; thread: any; no errors.
namespace baton::coordinator {

// The request's Origin when `allowed` has it, or "*", and the path's role is not the operators'; else empty.
std::string_view reading_origin(const std::vector<std::string>& allowed, const HttpRequest& request,
                                RouteRole role);
bool is_preflight(const HttpRequest& request);
// 204; `methods` of the path as in "GET, POST".
HttpAnswer preflight_answer(std::string methods);
// What every answer to a request of that origin carries.
std::vector<HttpField> cross_origin_fields(std::string_view origin);

}  // namespace baton::coordinator
