-- The orders that were copied from the book.
SELECT order_id FROM orders
