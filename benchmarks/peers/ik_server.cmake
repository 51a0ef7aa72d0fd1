# What ik-llama-cpp-python's source package lacks: the script that writes the build number of ik_llama.cpp.
file(WRITE "${CMAKE_CURRENT_SOURCE_DIR}/common/cmake/build-info-gen-cpp.cmake" [[
set(BUILD_NUMBER 0)
configure_file(common/build-info.cpp.in common/build-info.cpp)
]])
