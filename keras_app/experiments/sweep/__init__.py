"""Many runs that differ in a few bindings, side by side on Ray."""
