"""Pure values shared by the services: identities, states, proofs, manifests. No IO of any kind."""
