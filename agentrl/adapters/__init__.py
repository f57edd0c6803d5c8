"""Third-party suites as environments: one file each, over the package that the user installed. Copies none of it."""
