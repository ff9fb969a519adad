# Tests and benchmarks that want a made-up model: include(${PROJECT_SOURCE_DIR}/tests/support/random_model.cmake) and
# link baton_random_model.
if(NOT TARGET baton_random_model)
  add_library(baton_random_model STATIC ${CMAKE_CURRENT_LIST_DIR}/random_model.cc
    ${CMAKE_CURRENT_LIST_DIR}/model_writer.cc)
  target_include_directories(baton_random_model PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(baton_random_model PUBLIC baton_base baton_dequantize PRIVATE Threads::Threads baton_warnings)
endif()
