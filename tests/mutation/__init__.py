"""Mutation testing: small mistakes are put into the code, one at a time, and the tests have to notice.

Own code, after a look at two well-kept tools. mutmut 3 leaves out decorated functions, decorated classes and all that
stands outside functions, which here are the properties, the events and the limits; cosmic-ray starts a process for each
mutant, which takes over a second. Here the tests are collected once, each mutant is a fork in which one function's code
is exchanged, and only tests that reach the changed line run: 0.1 s for most.
"""
