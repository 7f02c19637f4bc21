#include "cli/program.h"

int main(int argc, char** argv) {
  return qlora::cli::run(argc, argv);
}
