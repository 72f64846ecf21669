"""What it was worth: delivery, cost, the unmanaged fleet and perfect foresight."""
