// Package crashpoint lets a test kill the process at a step of what the stores do, the
// hard way and exactly there. Only a binary built with the tag crashpoints has it; in
// any other [Here] does nothing.
//
// Such a binary is told by the environment variable GRANARY_CRASHPOINTS of a file.
// Nothing happens while there is none, or when it is taken away. When it is there it holds a number n: the nth
// step from then on is the last one of the process, and the file FILE.died says which
// step that was.
package crashpoint
