// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// That this program links is the test: every public header twice in a file of its own, all files in one program.
int main() {
  return 0;
}
