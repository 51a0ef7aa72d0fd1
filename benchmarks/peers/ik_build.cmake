# What ik-llama-cpp-python's source package lacks: the script that writes its build number, and where its libraries find each other.
file(WRITE "${CMAKE_CURRENT_SOURCE_DIR}/vendor/ik_llama.cpp/common/cmake/build-info-gen-cpp.cmake" [[
set(BUILD_NUMBER 0)
configure_file(common/build-info.cpp.in common/build-info.cpp)
]])
set(CMAKE_INSTALL_RPATH "$ORIGIN")
