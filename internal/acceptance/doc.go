// Package acceptance holds the tests that see gatehouse from outside: the built program, real namespaces, real packets.
package acceptance
